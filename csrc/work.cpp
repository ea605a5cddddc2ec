// SPDX-License-Identifier: Apache-2.0
// One step, in four passes: collect (checks everything, changes nothing), write_scalars, run, finish.
#include "work.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

namespace fs {

namespace {

// Work is shared out by units of 64 elements, so that no two threads write to one cache line of a 16-bit array that
// starts on a line. 512 units are some 15 microseconds: below that a second thread costs more than it does.
constexpr int64_t kUnit = 64;
constexpr int64_t kGrain = 512;

int64_t real_numel(const Entry& entry) { return entry.layout.numel * (entry.param.is_complex() ? 2 : 1); }

std::string where(const Entry& entry) {
  std::ostringstream out;
  out << "parameter " << entry.index << " of group " << entry.group << " (shape " << entry.param.sizes() << ", "
      << entry.param.scalar_type() << " on " << entry.param.device() << ")";
  return out.str();
}

int loop_of(const fs_cpu::Span& span, int states) {
  bool same = span.grad_dtype == span.param_dtype;
  bool wide = span.param_dtype == fs_cpu::DType::kFloat64 || span.grad_dtype == fs_cpu::DType::kFloat64;
  for (int k = 0; k < states; ++k) {
    same &= span.state_dtype[k] == span.param_dtype;
    wide |= span.state_dtype[k] == fs_cpu::DType::kFloat64;
  }
  if (same) return static_cast<int>(span.param_dtype);
  return wide ? fs_cpu::kMixedFloat64 : fs_cpu::kMixedFloat32;
}

}  // namespace

bool Plan::prepare_gradient(Entry& entry, const at::Tensor& grad, fs_cpu::Span& span, Work& work) {
  TORCH_CHECK(grad.layout() == at::kStrided,
              adam_ ? "Adam does not support sparse gradients, please consider SparseAdam instead"
                    : "`_fused_sgd` does not support sparse gradients",
              ". The gradient of ", where(entry), " is sparse; use sparse=False in the embedding, or to_dense().");
  TORCH_CHECK(grad.device() == entry.param.device(), "The gradient of ", where(entry), " is on ", grad.device(),
              ". Move it to the device of its parameter.");
  TORCH_CHECK(grad.sizes() == entry.param.sizes(), "The gradient of ", where(entry), " has shape ", grad.sizes(),
              ". It must have the shape of its parameter.");
  const auto dtype = dtype_of(grad.scalar_type());
  TORCH_CHECK(dtype && grad.is_complex() == entry.param.is_complex() && grad.has_storage(), "The gradient of ",
              where(entry), " is of dtype ", grad.scalar_type(), ". Cast it to the dtype of its parameter.");
  span.grad_dtype = *dtype;
  if (entry.layout.matches(*grad.unsafeGetTensorImpl()) && !grad.is_conj() && !grad.is_neg()) {
    span.grad = grad.const_data_ptr();
    return true;
  }
  // Strided otherwise than its parameter: walked side by side they would pair the wrong elements.
  at::NoGradGuard no_grad;
  at::Tensor copy = at::empty_strided(entry.layout.sizes, entry.layout.strides, grad.options());
  copy.copy_(grad);
  span.grad = copy.const_data_ptr();
  work.copies.push_back(std::move(copy));
  return true;
}

bool Plan::collect(Work& work) {
  work.clear();
  int64_t units = 0;
  int32_t last_group = -1;
  Rule rule = kAdamW;
  int states = 0;
  for (Entry& entry : entries_) {
    if (entry.foreign) continue;
    at::TensorImpl* impl = entry.param.unsafeGetTensorImpl();
    const at::Tensor& grad = impl->grad();
    if (!grad.defined()) continue;
    if (entry.group != last_group) {
      last_group = entry.group;
      rule = rule_of(groups_[last_group]);
      states = states_of(rule);
    }
    if (!entry.gathered && !entry.layout.matches(*impl)) return false;
    fs_cpu::Span span;
    const auto dtype = dtype_of(entry.param.scalar_type());
    if (!dtype || !entry.param.device().is_cpu()) return false;
    span.param_dtype = *dtype;
    if (!prepare_gradient(entry, grad, span, work)) return false;
    if (entry.states >= 0 && !state_unchanged(entry)) return false;
    if (states > 0 && entry.states < states) {
      missing_.emplace_back(entry.group, entry.index);
      continue;
    }
    span.rule = rule;
    span.numel = real_numel(entry);
    for (int k = 0; k < states; ++k) {
      const at::Tensor& state = entry.state[k];
      const auto state_dtype = dtype_of(state.scalar_type());
      if (!state_dtype || !state.device().is_cpu() || !entry.layout.same_order(*state.unsafeGetTensorImpl())) return false;
      span.state_dtype[k] = *state_dtype;
      span.state[k] = state.mutable_data_ptr();
    }
    if (entry.gathered) {
      at::NoGradGuard no_grad;
      at::Tensor dense = at::empty_strided(entry.layout.sizes, entry.layout.strides, entry.param.options());
      dense.copy_(entry.param);
      span.param = dense.mutable_data_ptr();
      work.gathered.emplace_back(&entry, std::move(dense));
    } else {
      span.param = entry.param.mutable_data_ptr();
    }
    // The tensor that users see may have been written to: then it is the count.
    if (entry.shown_step && static_cast<float>(entry.step) != *entry.shown_step) {
      entry.step = static_cast<int64_t>(*entry.shown_step);
    }
    units += (span.numel + kUnit - 1) / kUnit;
    work.unit_ends.push_back(units);
    work.spans.push_back(span);
    work.entries.push_back(&entry);
  }
  return true;
}

void Plan::write_scalars(Work& work, double gain) {
  int32_t group_index = -1;
  int64_t step = -1;
  bool fresh = false;
  AdamBias bias{};
  double bias_key[3] = {-1.0, -1.0, -1.0};
  for (size_t i = 0; i < work.spans.size(); ++i) {
    const Entry& entry = *work.entries[i];
    if (entry.group != group_index || entry.step != step || entry.fresh != fresh) {
      group_index = entry.group;
      step = entry.step;
      fresh = entry.fresh;
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
    work.spans[i].scalars = static_cast<int32_t>(work.scalars.size() / kMaxScalars) - 1;
  }
}

void Plan::run(Work& work) {
  if (work.spans.empty()) return;
  const fs_cpu::Kernels& kernels = fs_cpu::kernels();
  auto part = [&](int64_t begin, int64_t end) {
    size_t i = std::upper_bound(work.unit_ends.begin(), work.unit_ends.end(), begin) - work.unit_ends.begin();
    for (int64_t at = begin; at < end; ++i) {
      const fs_cpu::Span& span = work.spans[i];
      const int64_t first = i == 0 ? 0 : work.unit_ends[i - 1];
      const int64_t last = std::min(end, work.unit_ends[i]);
      if (last == first) continue;  // no elements
      const int loop = loop_of(span, states_of(static_cast<Rule>(span.rule)));
      kernels.kernel[span.rule][loop](span, (at - first) * kUnit, std::min(span.numel, (last - first) * kUnit),
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
    for (auto& [entry, dense] : work.gathered) entry->param.copy_(dense);
  }
  for (Entry* entry : work.entries) {
    entry->fresh = false;
    if (entry->shown_step) *entry->shown_step = static_cast<float>(++entry->step);
    // Autograd has to know that what it saved of this parameter is no longer true.
    at::TensorImpl* impl = entry->param.unsafeGetTensorImpl();
    if (!entry->gathered && !impl->is_inference()) impl->bump_version();
  }
  work.copies.clear();
  work.gathered.clear();
}

bool Plan::zero_grad(const py::list& param_groups, bool set_to_none) {
  if (!same_structure(param_groups)) return false;
  for (Entry& entry : entries_) {
    at::TensorImpl* impl = entry.param.unsafeGetTensorImpl();
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
    at::NoGradGuard no_grad;
    grad.zero_();
  }
  return true;
}

}  // namespace fs
