// SPDX-License-Identifier: Apache-2.0
// What plans write into a ring of telemetry (core/telemetry.h).
#include "core/telemetry.h"

#include "plan/cpu_plan.h"
#include "plan/cuda_batch.h"
#include "plan/work.h"

namespace fs {

void Plan::record_to(const OptionalTensor& ring) {
  if (ring) {
    TORCH_CHECK(ring->device() == device_ && ring->scalar_type() == at::kDouble && ring->is_contiguous() &&
                    ring->dim() == 2 && ring->size(0) > 1 &&
                    ring->size(1) == row_width(static_cast<int64_t>(groups_.size())),
                "A ring for ", groups_.size(), " groups must be float64 on ", device_, " with rows of ",
                row_width(static_cast<int64_t>(groups_.size())), " numbers.");
  }
  ring_ = ring.value_or(at::Tensor());
}

void CpuPlan::record(bool skipped) {
  auto* ring = static_cast<double*>(unwrap(ring_));
  double* const row = next_row(ring, ring_.size(0) - 1, ring_.size(1));
  double* at = row + kRowHead;
  for (const Group& group : groups_) {
    at = std::copy_n(group.values(), kMaxHyperparameters, at);
  }
  finish_row(ring, row, clock_[kUpdates], skipped);
}

Plan::Outcome CpuPlan::skip(const py::list& param_groups, const at::Tensor&) {
  return ring_.defined() && !same_structure(param_groups) ? kRebuild : count_skipped();
}

Plan::Outcome CpuPlan::count_skipped() {
  if (ring_.defined()) record(true);
  ++clock_[kSkipped];
  return kDone;
}

void CudaPlan::record_to(const OptionalTensor& ring) {
  if (captured_ && ring_.defined()) kept_.push_back(ring_);
  Plan::record_to(ring);
}

void CudaPlan::record(const LaunchBatch& batch) {
  call_on(device_, runtime_.record, stream(), batch.launch, static_cast<double*>(unwrap(ring_)), ring_.size(0) - 1);
}

// Another plan has looked at found_inf, and the step is not going to be launched.
Plan::Outcome CudaPlan::skip(const py::list& param_groups, const at::Tensor& found_inf) {
  auto* clocks = static_cast<int64_t*>(unwrap(clocks_));
  if (ring_.defined()) {
    const Outcome found = same_structure(param_groups) ? prepare_tables(false) : kRebuild;
    if (found != kDone) return found;
    if (pending_values_.size() > fs_cuda::kMaxPending) store_pending(false);
    const at::Tensor here = native(found_inf.to(device_, at::kFloat, /*non_blocking=*/true));
    address(*empty_batch_, std::nullopt, here, true);
    record(*empty_batch_);
  }
  call_on(device_, runtime_.advance, stream(), clocks + kSkipped, 1);
  return kDone;
}

}  // namespace fs
