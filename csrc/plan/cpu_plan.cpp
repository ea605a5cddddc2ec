// SPDX-License-Identifier: Apache-2.0
// What a step on the CPU does after collect.cpp has checked it: scalars, one parallel region, counts.
#include "plan/cpu_plan.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <unordered_set>

#include "plan/work.h"

namespace fs {

CpuPlan::CpuPlan(const py::object& spec, py::object optimizer, const py::list& param_groups, const py::dict& state,
                 at::Tensor clocks)
    : Plan(spec, std::move(optimizer), param_groups, state, std::move(clocks), at::kCPU, true),
      clock_(unwrap<int64_t>(clocks_)) {}

Plan::Outcome CpuPlan::apply(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) {
  if (found_inf && found_inf->item<double>() != 0.0) return count_skipped();
  const double gain = scale ? 1.0 / scale->item<double>() : 1.0;
  if (scale) check_writable(*work_);
  const bool is_update = counts || !work_->entries.empty();
  if (is_update && ring_.defined()) record(false);
  write_scalars(*work_, gain);
  count(*work_);
  run(*work_);
  finish(*work_);
  if (scale) scale_gradients(gain);
  if (is_update) advance(kUpdates, 1);
  return outcome();
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
  for (const at::Tensor& grad : work_->gradients) {
    if (scaled.insert(grad.unsafeGetTensorImpl()).second) grad.mul_(gain);
  }
}

// One set for all parameters of a group at one step, and for the next group if its numbers are the same.
void CpuPlan::write_scalars(Work& work, double gain) {
  StepOfGroups info(gain);
  const double* hyper = nullptr;
  int32_t group = -1, scalars = -1;
  int64_t known = -1;
  uint8_t rule = kRules;
  for (Entry* each : work.entries) {
    Entry& entry = *each;
    int64_t& updates = entry_counts_[entry.at].updates;
    // The tensor that users see may have been written to: then it is the count.
    const float* const step = entry.array.step;
    if (step != nullptr && static_cast<float>(updates) != *step) updates = static_cast<int64_t>(*step);
    if (entry.array.group != group || updates != known) {
      const double* values = groups_[entry.array.group].values();
      const bool same = updates == known && entry.rule == rule &&
                        std::memcmp(values, hyper, kMaxHyperparameters * sizeof(double)) == 0;
      group = entry.array.group;
      if (!same) {
        hyper = values;
        known = updates;
        rule = entry.rule;
        work.scalars.resize(++scalars * kMaxScalars + kMaxScalars);
        info.follow(updates);
        kRuleInfo[rule].prepare(hyper, info, &work.scalars[scalars * kMaxScalars]);
      }
    }
    if (entry.scalars != scalars) entry.scalars = scalars;
  }
}

// What an update leaves beside the arrays, counted now, while it is in the cache: the update does not fail.
void CpuPlan::count(const Work& work) {
  for (const Entry* entry : work.entries) {
    int64_t& updates = entry_counts_[entry->at].updates;
    if (entry->array.step != nullptr) {
      *entry->array.step = static_cast<float>(++updates);
    } else if (updates == 0) {
      updates = kRuleInfo[entry->rule].states > 0;
    }
    bump_version(*entry);
  }
}

namespace {

// Prefetches the beginning of its arrays; the kernel prefetches the rest.
void prefetch(const Array& array) {
  const int64_t bytes = std::min(fs_cpu::kAhead, array.numel * size_of(array.dtype[kParam]));
  for (int64_t at = 0; at < bytes; at += fs_cpu::kLine) {
    for (const void* data : array.data) {
      if (data != nullptr) __builtin_prefetch(static_cast<const char*>(data) + at);
    }
  }
}

}  // namespace

// Calls update(begin, end) for all units, on as many threads as there is work for.
template <class Update>
void CpuPlan::share_out(const Work& work, int64_t units, const Update& update) {
  const double estimate = work.estimate();
  if (estimate < kShared) return update(0, units);
  const auto begin = std::chrono::steady_clock::now();
  const bool shared = team_.shares(estimate);
  const auto grain = static_cast<int64_t>(static_cast<double>(units) * kShare / estimate) + 1;
  if (shared) {
    at::parallel_for(0, units, grain, update);
  } else {
    update(0, units);
  }
  const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - begin;
  team_.took(time.count(), estimate, shared);
}

void CpuPlan::run(Work& work) {
  if (work.entries.empty()) return;
  auto update = [&](int64_t begin, int64_t end) {
    size_t i = std::upper_bound(work.unit_ends.begin(), work.unit_ends.end(), begin) - work.unit_ends.begin();
    for (int64_t at = begin; at < end; ++i) {
      const Entry& entry = *work.entries[i];
      const int64_t first = i == 0 ? 0 : work.unit_ends[i - 1];
      const int64_t last = std::min(end, work.unit_ends[i]);
      if (last == first) continue;  // no elements
      if (work.cold && last < end) prefetch(work.entries[i + 1]->array);
      entry.kind->kernel(entry.array, (at - first) * kUnit, std::min(entry.array.numel, (last - first) * kUnit),
                         &work.scalars[static_cast<size_t>(entry.scalars) * kMaxScalars]);
      at = last;
    }
  };
  const int64_t units = work.unit_ends.back();
  if (!work.is_long()) {
    share_out(work, units, update);
    return;
  }
  hold(work);
  const ReleasedInterpreter released;
  share_out(work, units, update);
}

}  // namespace fs
