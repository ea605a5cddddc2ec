// SPDX-License-Identifier: Apache-2.0
// What a step does after collect.cpp has checked it: write_scalars, run, finish. And zero_grad.
#include "work.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

namespace fs {

void Plan::write_scalars(Work& work, double gain) {
  int32_t group_index = -1;
  int64_t step = -1;
  bool fresh = false;
  AdamBias bias{};
  double bias_key[3] = {-1.0, -1.0, -1.0};
  for (size_t i = 0; i < work.entries.size(); ++i) {
    Entry& entry = *work.entries[i];
    const Beside& beside = beside_[entry.at];
    if (entry.group != group_index || beside.step != step || beside.fresh != fresh) {
      group_index = entry.group;
      step = beside.step;
      fresh = beside.fresh;
      const Group& g = groups_[group_index];
      work.scalars.resize(work.scalars.size() + kMaxScalars);
      double* out = &work.scalars[work.scalars.size() - kMaxScalars];
      if (adam_) {
        const double sign = g[Group::kMaximize] != 0.0 ? -gain : gain;
        const double key[3] = {g[Group::kBeta1], g[Group::kBeta2], static_cast<double>(step + 1)};
        if (std::memcmp(key, bias_key, sizeof key) != 0) {
          bias = adam_bias(key[0], key[1], key[2]);
          std::memcpy(bias_key, key, sizeof key);
        }
        const AdamHyper h{g[Group::kLr], key[0], key[1], g[Group::kEps], g[Group::kWeightDecay], sign};
        const auto s = prepare(h, g[Group::kDecoupled] != 0.0, bias);
        std::memcpy(out, &s, sizeof s);
      } else {
        const double sign = g[Group::kSGDMaximize] != 0.0 ? -gain : gain;
        const SGDHyper h{g[Group::kSGDLr], g[Group::kMomentum], g[Group::kDampening], g[Group::kSGDWeightDecay], sign};
        const auto s = prepare(h, fresh);
        std::memcpy(out, &s, sizeof s);
      }
    }
    const int32_t scalars = static_cast<int32_t>(work.scalars.size() / kMaxScalars) - 1;
    if (entry.span.scalars != scalars) entry.span.scalars = scalars;
  }
}

void Plan::run(Work& work) {
  if (work.entries.empty()) return;
  auto part = [&](int64_t begin, int64_t end) {
    size_t i = std::upper_bound(work.unit_ends.begin(), work.unit_ends.end(), begin) - work.unit_ends.begin();
    for (int64_t at = begin; at < end; ++i) {
      const fs_cpu::Span& span = work.entries[i]->span;
      const int64_t first = i == 0 ? 0 : work.unit_ends[i - 1];
      const int64_t last = std::min(end, work.unit_ends[i]);
      if (last == first) continue;  // no elements
      work.entries[i]->kind->kernel(span, (at - first) * kUnit, std::min(span.numel, (last - first) * kUnit),
                              &work.scalars[static_cast<size_t>(span.scalars) * kMaxScalars]);
      at = last;
    }
  };
  const int64_t units = work.unit_ends.back();
  if (units <= kGrain) {
    part(0, units);
    return;
  }
  py::gil_scoped_release release;
  at::parallel_for(0, units, kGrain, part);
}

void Plan::finish(Work& work) {
  {
    at::NoGradGuard no_grad;
    for (auto& [entry, dense] : work.gathered) entry->param().copy_(dense);
  }
  for (Entry* entry : work.entries) {
    Beside& beside = beside_[entry->at];
    beside.fresh = false;
    if (entry->shown_step) *entry->shown_step = static_cast<float>(++beside.step);
    // Autograd has to know that what it saved of this parameter is no longer true.
    at::TensorImpl* impl = entry->param().unsafeGetTensorImpl();
    if (!entry->gathered && !impl->is_inference()) impl->bump_version();
  }
  work.copies.clear();
  work.gathered.clear();
}

bool Plan::zero_grad(const py::list& param_groups, bool set_to_none) {
  if (!same_structure(param_groups)) return false;
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
    const bool plain = grad.is_cpu() && grad.layout() == at::kStrided && !values.is_python_dispatch() &&
                       !values.is_inference() && grad.is_non_overlapping_and_dense();
    if (plain && values.numel() <= kUnit * kGrain) {  // a dispatch costs more than these bytes; more go to all threads
      std::memset(first_element(values), 0, values.numel() * values.dtype().itemsize());
      values.bump_version();
    } else {
      at::NoGradGuard no_grad;
      grad.zero_();
    }
  }
  return true;
}

}  // namespace fs
