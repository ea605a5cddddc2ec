// SPDX-License-Identifier: Apache-2.0
// What Python's tensor objects are in C++, and those few operations whose headers are wide. bridge.cpp alone includes
// torch/csrc: that costs a compiler 10 seconds and 0.9 GB, so no other file may (a test reads the includes).
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <pybind11/pytypes.h>

#include <cstddef>
#include <exception>
#include <string>
#include <vector>

namespace py = pybind11;

namespace fs {

// Where the at::Tensor lies in a Python tensor object, and the gradient in the autograd metadata of a tensor, behind a
// table of virtual functions and a name. Constants, since a step reads both for each parameter; bridge.cpp compares them
// with torch's headers when it is compiled.
constexpr size_t kTensorOffset = sizeof(PyObject);
constexpr size_t kGradientOffset = sizeof(void*) + sizeof(std::string);

// Whether the object is a tensor or of a subclass. Throws what its class raises.
bool is_tensor(PyObject* object);

// The tensor of an object for which is_tensor holds.
inline const at::Tensor& tensor_of(PyObject* object) {
  return *reinterpret_cast<const at::Tensor*>(reinterpret_cast<const char*>(object) + kTensorOffset);
}

// Lets other threads run Python as long as it lives. pybind11's own needs pybind11.h, which has its definitions.
class ReleasedInterpreter {
 public:
  ReleasedInterpreter() : state_(PyEval_SaveThread()) {}
  ~ReleasedInterpreter() { PyEval_RestoreThread(state_); }
  ReleasedInterpreter(const ReleasedInterpreter&) = delete;
  ReleasedInterpreter& operator=(const ReleasedInterpreter&) = delete;

 private:
  PyThreadState* state_;
};

// Throws what Python has raised.
[[noreturn]] void throw_python_error();

// A Python object for the tensor: a new reference.
PyObject* wrap(const at::Tensor& tensor);

// The gradient's place, without the virtual call; parameters that never saw autograd have none.
inline const at::Tensor kNoGradient;
inline const at::Tensor& gradient_of(const at::TensorImpl& impl) {
  const auto* meta = reinterpret_cast<const char*>(impl.autograd_meta());
  return meta == nullptr ? kNoGradient : *reinterpret_cast<const at::Tensor*>(meta + kGradientOffset);
}

bool is_device(PyObject* object);
at::Device device_of(PyObject* object);
PyObject* wrap(at::Device device);

// Sets Python's error where the exception is one that Python code raised under a torch operation; throws it otherwise.
void restore_python_error(const std::exception_ptr& error);

// What torch::empty_like() would have as strides.
std::vector<int64_t> dense_strides(const at::Tensor& tensor);
// New memory with what the tensor's own copy_ gives.
at::Tensor native_copy(const at::Tensor& tensor);
// A tensor over memory that it does not own.
at::Tensor tensor_over(void* memory, at::IntArrayRef sizes, at::ScalarType type, at::Device device);
void zero_all(const std::vector<at::Tensor>& tensors);

}  // namespace fs
