// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "plan/work.h"

namespace fs {

bool Plan::zero_grad(const py::list& param_groups, bool set_to_none) {
  if (!same_structure(param_groups)) return false;
  std::vector<at::Tensor> far;  // on a device: one launch for many
  for (Entry& entry : entries_) {
    at::TensorImpl* impl = entry.param().unsafeGetTensorImpl();
    if (!impl->grad().defined()) continue;
    at::Tensor& grad = impl->mutable_grad();
    if (set_to_none) {
      grad.reset();
      continue;
    }
    if (grad.grad_fn()) {
      grad.detach_();
    } else {
      grad.set_requires_grad(false);
    }
    at::TensorImpl& values = *grad.unsafeGetTensorImpl();
    const bool plain = grad.is_cpu() && is_native(values) && !values.is_inference() &&
                       grad.is_non_overlapping_and_dense();
    if (plain && values.numel() <= kUnit * kGrain) {  // a dispatch costs more than these bytes; more go to all threads
      std::memset(unwrap(values), 0, values.numel() * values.dtype().itemsize());
      values.bump_version();
    } else if (grad.is_cpu() || !is_native(values)) {
      at::NoGradGuard no_grad;
      grad.zero_();
    } else {
      far.push_back(grad);
    }
  }
  at::NoGradGuard no_grad;
  if (!far.empty()) zero_all(far);
  return true;
}

// Gradients that are not native are unscaled by their own copy_. Called before an update, since it may raise.
void Plan::check_writable(const Work& work) const {
  at::NoGradGuard no_grad;
  for (const auto& [entry, copy] : work.copies) {
    at::Tensor& grad = entry->param().mutable_grad();
    if (!is_native(*grad.unsafeGetTensorImpl())) grad.copy_(copy);
  }
}

}  // namespace fs
