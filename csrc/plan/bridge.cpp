// SPDX-License-Identifier: Apache-2.0
#include "plan/bridge.h"

#include <ATen/ExpandUtils.h>
#include <ATen/ops/_foreach_zero.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <torch/csrc/Device.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>

#include <cstddef>
#include <type_traits>

namespace fs {

#pragma GCC diagnostic ignored "-Winvalid-offsetof"  // of a class with virtual functions; GCC and Clang know it
static_assert(offsetof(THPVariable, cdata) == kTensorOffset && std::is_same_v<decltype(THPVariable::cdata), at::Tensor>,
              "this torch has its tensor elsewhere in a Python object");
static_assert(offsetof(torch::autograd::AutogradMeta, grad_) == kGradientOffset,
              "this torch has its gradients elsewhere in the autograd metadata");

// Of any other object torch asks the metaclass of its tensors, which is Python.
bool is_tensor(PyObject* object) {
  const bool is_number = PyFloat_CheckExact(object) || PyLong_CheckExact(object) || PyBool_Check(object);
  return !is_number && object != Py_None && THPVariable_Check(object);
}

// Defined where pybind11.h is included, so that what the other files use of error_already_set has its definitions.
void throw_python_error() { throw py::error_already_set(); }

PyObject* wrap(const at::Tensor& tensor) { return THPVariable_Wrap(tensor); }

bool is_device(PyObject* object) { return THPDevice_Check(object); }
at::Device device_of(PyObject* object) { return reinterpret_cast<THPDevice*>(object)->device; }
PyObject* wrap(at::Device device) { return THPDevice_New(device); }

void restore_python_error(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (python_error& raised) {
    raised.restore();
  }
}

std::vector<int64_t> dense_strides(const at::Tensor& tensor) {
  return at::infer_dense_strides(tensor.sizes(), tensor.strides());
}

at::Tensor native_copy(const at::Tensor& tensor) {
  at::NoGradGuard no_grad;
  return at::empty(tensor.sizes(), tensor.options()).copy_(tensor);
}

at::Tensor tensor_over(void* memory, at::IntArrayRef sizes, at::ScalarType type, at::Device device) {
  return at::for_blob(memory, sizes).options(at::device(device).dtype(type)).target_device(device).make_tensor();
}

void zero_all(const std::vector<at::Tensor>& tensors) { at::_foreach_zero_(tensors); }

}  // namespace fs
