// SPDX-License-Identifier: Apache-2.0
// What a step on the CPU does after collect.cpp has checked it: scalars, one parallel region, counts.
#include "plan/cpu_plan.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "plan/work.h"

namespace fs {

CpuPlan::CpuPlan(bool adam, py::list param_groups, py::dict state, at::Tensor clocks)
    : Plan(adam, std::move(param_groups), std::move(state), std::move(clocks), at::kCPU, true),
      clock_(unwrap<int64_t>(clocks_)) {}

Plan::Outcome CpuPlan::apply(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) {
  if (found_inf && found_inf->item<double>() != 0.0) return skip(param_groups_, *found_inf);
  const double gain = scale ? 1.0 / scale->item<double>() : 1.0;
  if (scale) check_writable(*work_);
  const bool is_update = counts || !work_->entries.empty();
  if (is_update && ring_.defined()) record(false);
  read_counts(*work_);
  write_scalars(*work_, gain);
  // Now, while they are in the cache: the update does not fail.
  for (Entry* entry : work_->entries) {
    Beside& beside = beside_[entry->at];
    beside.fresh = false;
    if (entry->shown_step) *entry->shown_step = static_cast<float>(++beside.step);
  }
  bump_versions(*work_);
  run(*work_);
  finish(*work_);
  if (scale) scale_gradients(gain);
  if (is_update) advance(kUpdates, 1);
  return outcome();
}

// The tensor that users see may have been written to: then it is the count.
void CpuPlan::read_counts(Work& work) {
  for (Entry* entry : work.entries) {
    int64_t& step = beside_[entry->at].step;
    if (entry->shown_step && static_cast<float>(step) != *entry->shown_step) {
      step = static_cast<int64_t>(*entry->shown_step);
    }
  }
}

void CpuPlan::check_horizons() {
  for (const Group& group : groups_) {
    if (group.has_programs()) group.check_horizons(clock_);
  }
}

void CpuPlan::advance(int unit, int64_t amount) {
  clock_[unit] += amount;
  for (Group& group : groups_) {
    if (group.has_programs()) group.show(clock_);
  }
}

// Users find unscaled gradients after a step, as with torch's fused optimizers; a shared one is divided once.
void CpuPlan::scale_gradients(double gain) {
  at::NoGradGuard no_grad;
  std::unordered_set<at::TensorImpl*> scaled;
  for (Entry* entry : work_->entries) {
    at::Tensor& grad = entry->param().mutable_grad();
    if (scaled.insert(grad.unsafeGetTensorImpl()).second) grad.mul_(gain);
  }
}

void CpuPlan::write_scalars(Work& work, double gain) {
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
      double slots[kMaxSlots];
      g.read(slots);
      if (adam_) {
        const double key[3] = {slots[AdamSlot::kBeta1], slots[AdamSlot::kBeta2], static_cast<double>(step + 1)};
        if (std::memcmp(key, bias_key, sizeof key) != 0) {
          bias = adam_bias(key[0], key[1], key[2]);
          std::memcpy(bias_key, key, sizeof key);
        }
        const auto s = adam_scalars(slots, gain, bias);
        std::memcpy(out, &s, sizeof s);
      } else {
        const auto s = sgd_scalars(slots, gain, fresh);
        std::memcpy(out, &s, sizeof s);
      }
    }
    const int32_t scalars = static_cast<int32_t>(work.scalars.size() / kMaxScalars) - 1;
    if (entry.span.scalars != scalars) entry.span.scalars = scalars;
  }
}

namespace {

// The beginning of its arrays; what comes later the kernel asks for itself.
void ask_for(const fs_cpu::Span& span) {
  const int64_t bytes = std::min(fs_cpu::kAhead, span.numel * fs::size_of(span.param_dtype));
  for (int64_t at = 0; at < bytes; at += fs_cpu::kLine) {
    __builtin_prefetch(static_cast<const char*>(span.param) + at);
    __builtin_prefetch(static_cast<const char*>(span.grad) + at);
    for (const void* state : span.state) {
      if (state != nullptr) __builtin_prefetch(static_cast<const char*>(state) + at);
    }
  }
}

}  // namespace

void CpuPlan::run(Work& work) {
  if (work.entries.empty()) return;
  auto part = [&](int64_t begin, int64_t end) {
    size_t i = std::upper_bound(work.unit_ends.begin(), work.unit_ends.end(), begin) - work.unit_ends.begin();
    for (int64_t at = begin; at < end; ++i) {
      const fs_cpu::Span& span = work.entries[i]->span;
      const int64_t first = i == 0 ? 0 : work.unit_ends[i - 1];
      const int64_t last = std::min(end, work.unit_ends[i]);
      if (last == first) continue;  // no elements
      if (work.cold && last < end) ask_for(work.entries[i + 1]->span);
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
  updating_ = true;
  {
    const ReleasedInterpreter released;
    const std::lock_guard<std::mutex> update(update_);
    at::parallel_for(0, units, kGrain, part);
  }
  updating_ = false;
}

}  // namespace fs
