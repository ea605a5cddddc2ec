// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "plan/work.h"

namespace fs {

namespace {

constexpr int64_t kClearedHere = int64_t{1} << 15;  // elements of a gradient that this thread clears by itself

}  // namespace

bool Plan::zero_grad(const py::list& param_groups, bool set_to_none) {
  if (!same_structure(param_groups)) return false;
  std::vector<at::Tensor> far;  // on a device: one launch for many
  std::vector<at::Tensor> gone;  // freed at the end, since other code may run then
  std::vector<py::object> alive;  // the parameters, where it may run before
  if (set_to_none) gone.reserve(entries_.size());
  for (Entry& entry : entries_) {
    at::TensorImpl* impl = entry.param().unsafeGetTensorImpl();
    if (!impl->grad().defined()) continue;
    at::Tensor& grad = impl->mutable_grad();
    if (set_to_none) {
      gone.push_back(std::move(grad));
      continue;
    }
    if (alive.empty() && !is_native(*grad.unsafeGetTensorImpl())) {
      for (const Entry& each : entries_) alive.push_back(py::reinterpret_borrow<py::object>(each.object));
    }
    if (grad.grad_fn()) {
      grad.detach_();
    } else {
      grad.set_requires_grad(false);
    }
    at::TensorImpl& values = *grad.unsafeGetTensorImpl();
    TORCH_CHECK(!is_native(values) || is_backed(grad), "The memory of the gradient of parameter ", entry.index,
                " of group ", entry.array.group, " is gone: it was freed by untyped_storage().resize_(). Bring it back "
                "before zero_grad(set_to_none=False).");
    const bool plain = grad.is_cpu() && is_native(values) && !values.is_inference() &&
                       grad.is_non_overlapping_and_dense();
    if (plain && values.numel() <= kClearedHere) {  // a dispatch costs more than these bytes; more go to all threads
      if (values.numel() > 0) std::memset(unwrap(values), 0, values.numel() * values.dtype().itemsize());
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
  for (const auto& [grad, copy] : work.copies) {
    if (!is_native(*grad.unsafeGetTensorImpl())) grad.copy_(copy);
  }
}

}  // namespace fs
