// SPDX-License-Identifier: Apache-2.0
// Tensors and devices as arguments and results of what pybind11 binds, without torch's casters for the same types: those
// come with torch/extension.h.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "plan/bridge.h"

namespace pybind11::detail {

template <>
struct type_caster<at::Tensor> {
  PYBIND11_TYPE_CASTER(at::Tensor, const_name("torch.Tensor"));
  bool load(handle source, bool) {
    if (!fs::is_tensor(source.ptr())) return false;
    value = fs::tensor_of(source.ptr());
    return true;
  }
  static handle cast(const at::Tensor& tensor, return_value_policy, handle) { return fs::wrap(tensor); }
};

template <>
struct type_caster<at::Device> {
  PYBIND11_TYPE_CASTER(at::Device, const_name("torch.device"));
  type_caster() : value(at::kCPU) {}
  bool load(handle source, bool) {
    if (!fs::is_device(source.ptr())) return false;
    value = fs::device_of(source.ptr());
    return true;
  }
  static handle cast(const at::Device& device, return_value_policy, handle) { return fs::wrap(device); }
};

}  // namespace pybind11::detail
