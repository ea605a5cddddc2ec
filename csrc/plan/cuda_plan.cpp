// SPDX-License-Identifier: Apache-2.0
#include "plan/cuda_plan.h"

#include <pybind11/cast.h>

#include <algorithm>
#include <unordered_set>

#include "plan/cuda_batch.h"
#include "plan/work.h"

namespace fs {

namespace {

// An empty tensor has no address; to the kernel, none means no gradient.
void* const kNoElements = reinterpret_cast<void*>(16);

size_t index_named(const Group& group, const std::string& name) {
  const auto& all = group.hyperparameters();
  const auto found = std::find_if(all.begin(), all.end(), [&](const Hyperparameter& h) { return h.key->name == name; });
  TORCH_CHECK_VALUE(found != all.end(), "'", name, "' cannot be scheduled by this optimizer.");
  return found - all.begin();
}

const fs_cuda::Runtime& present_runtime() {
  const fs_cuda::Runtime* runtime = cuda_runtime();
  TORCH_CHECK(runtime != nullptr, "fusedsched was built without CUDA.");
  return *runtime;
}

}  // namespace

CudaPlan::CudaPlan(const py::object& spec, py::object optimizer, const py::list& param_groups, const py::dict& state,
                   at::Tensor clocks, at::Tensor flags, std::vector<at::Tensor> rows, py::object stream_of)
    : Plan(spec, std::move(optimizer), param_groups, state, clocks, clocks.device(), false),
      runtime_(present_runtime()),
      stream_of_(std::move(stream_of)),
      flags_(std::move(flags)),
      ticket_(clocks.new_zeros({1}, at::kInt)),
      rows_(std::move(rows)),
      empty_batch_(std::make_unique<LaunchBatch>()) {
  TORCH_CHECK(rows_.size() == groups_.size(), "There must be one row of hyperparameters for each group.");
  for (const at::Tensor& row : rows_) {
    TORCH_CHECK(row.device() == device_ && row.scalar_type() == at::kDouble && row.is_contiguous() &&
                    row.numel() == 2 * kMaxHyperparameters,
                "A row of hyperparameters must be ", 2 * kMaxHyperparameters, " float64 numbers on ", device_, ".");
  }
}

CudaPlan::~CudaPlan() = default;

uint64_t CudaPlan::stream() const { return stream_of_(index()).cast<uint64_t>(); }

bool CudaPlan::capturing() const { return captures(stream()); }

bool CudaPlan::captures(uint64_t stream) const {
  bool answer = false;
  check_cuda(runtime_.capturing(stream, &answer));
  return answer;
}

void CudaPlan::check_counts() {
  auto* flags = unwrap<int32_t>(flags_);
  for (const auto& [unit, name] : {std::pair{kSamples, "samples"}, std::pair{kTokens, "tokens"}}) {
    const bool negative = std::exchange(flags[unit], 0) != 0;  // said once: the clock has held, and goes on
    TORCH_CHECK_VALUE(!negative, "advance() got a negative number of ", name, " in a tensor on ", device_,
                      ". That call advanced nothing. Numbers of samples and tokens must be zero or more.");
  }
}

void CudaPlan::check_horizons() {
  check_counts();
  const auto* flags = unwrap<const int32_t>(flags_);
  TORCH_CHECK(flags[kSkipped] == 0, "A scheduler inside a captured graph was stepped past its last step.");
  if (flags[kUpdates] == 0) return;
  const at::Tensor clocks = clocks_.cpu();
  for (const Group& group : groups_) {
    if (group.has_programs()) group.check_horizons(unwrap<const int64_t>(clocks));
  }
}

Plan::Outcome CudaPlan::check(const py::list& param_groups, const py::dict& state) {
  check_stream_ = stream();  // first: asking for it may let other threads run
  const Outcome found = Plan::check(param_groups, state);
  return found == kDone ? prepare_tables(work_->moved && pending()) : found;
}

// Brings what the kernels read up to date with the groups; with the arrays too, if they moved.
Plan::Outcome CudaPlan::prepare_tables(bool moved) {
  const bool ready = groups_table_.defined();
  if (ready && !read_numbers()) return kRebuild;
  if (ready && !moved) return kDone;
  if (in_step()) hold(*work_);
  TORCH_CHECK(!capturing(), "This CUDA graph cannot hold optimizer.step(): ",
              ready ? "a parameter or its state moved, or has its first gradient," : "it is the optimizer's first step,",
              " and the tables that the kernel reads have to be written before the capture. Call step() once with the "
              "same gradients, outside of the graph, and capture then.");
  if (!ready) build_groups();
  if (moved) build_batches();
  return kDone;
}

// The kernel unscales gradients in memory: of one that several parameters share, the others read a copy.
void CudaPlan::unshare_gradients() {
  at::NoGradGuard no_grad;
  std::unordered_set<const void*> seen;
  for (size_t i = 0; i < work_->entries.size(); ++i) {
    Entry* entry = work_->entries[i];
    if (entry->array.numel == 0 || seen.insert(entry->array.data[kGrad]).second) continue;
    const at::Tensor& grad = work_->gradients[i];
    at::Tensor copy = entry->param().new_empty_strided(entry->layout->sizes, entry->layout->strides, grad.options());
    copy.copy_(grad);
    entry->array.data[kGrad] = unwrap(copy);
    work_->copies.emplace_back(grad, std::move(copy));
  }
}

// Puts the gradients' addresses into the launch arguments.
void CudaPlan::address_gradients() {
  const bool same = present_ == work_->entries;
  if (!same) {
    for (auto& batch : batches_) std::fill(std::begin(batch->launch.grads), std::end(batch->launch.grads), nullptr);
  }
  for (const Entry* entry : work_->entries) {
    void* grad = entry->array.numel == 0 ? kNoElements : entry->array.data[kGrad];
    batch_of_[entry->at]->launch.grads[index_in_batch_[entry->at]] = grad;
  }
  if (same) return;
  for (auto& batch : batches_) assign_tiles(*batch);
  present_ = work_->entries;
}

void CudaPlan::address(LaunchBatch& batch, const OptionalTensor& scale, const OptionalTensor& found_inf, bool last) {
  fs_cuda::Launch& args = batch.launch;
  const void* arrays = batch.arrays.defined() ? unwrap<const void>(batch.arrays) : nullptr;
  args.arrays = static_cast<const Array*>(arrays);
  args.groups = static_cast<const fs_cuda::Group*>(unwrap<const void>(groups_table_));
  args.schedules = schedules();
  args.clocks = static_cast<int64_t*>(unwrap(clocks_));
  args.ticket = static_cast<uint32_t*>(unwrap(ticket_));
  args.past_horizon = unwrap<int32_t>(flags_);
  args.grad_scale = scale ? unwrap<const float>(*scale) : nullptr;
  args.found_inf = found_inf ? unwrap<const float>(*found_inf) : nullptr;
  args.n_arrays = static_cast<int32_t>(batch.members.size());
  args.n_groups = static_cast<int32_t>(groups_.size());
  args.n_pending = static_cast<int32_t>(pending_values_.size());
  args.last = last;
  std::copy(pending_values_.begin(), pending_values_.end(), args.pending);
}

Plan::Outcome CudaPlan::apply(const OptionalTensor& scale, const OptionalTensor& found_inf, bool counts) {
  if (!pending() && !counts) return outcome();
  const auto here = [this](const OptionalTensor& t) {
    return t ? OptionalTensor(native(t->to(device_, at::kFloat, /*non_blocking=*/true))) : std::nullopt;
  };
  const OptionalTensor scale_here = here(scale), found_inf_here = here(found_inf);
  const bool in_capture = captures(check_stream_);
  if (in_capture) note_capture();
  if (in_capture || pending_values_.size() > fs_cuda::kMaxPending) {
    hold(*work_);
    store_pending(in_capture);
  }
  if (scale) {
    check_writable(*work_);
    unshare_gradients();
  }
  address_gradients();
  std::vector<LaunchBatch*> chosen;
  for (auto& batch : batches_) {
    if (batch->present > 0) chosen.push_back(batch.get());
  }
  if (chosen.empty()) chosen.push_back(empty_batch_.get());
  for (LaunchBatch* batch : chosen) address(*batch, scale_here, found_inf_here, batch == chosen.back());
  if (ring_.defined()) record(*chosen.front());
  for (LaunchBatch* batch : chosen) {
    check_cuda(runtime_.step(index(), check_stream_, batch->rule, batch->variant, batch->blocks, batch->launch));
  }
  pending_values_.clear();
  if (scale) {
    at::NoGradGuard no_grad;
    for (const auto& [grad, copy] : work_->copies) grad.copy_(copy);
  }
  for (const Entry* entry : work_->entries) bump_version(*entry);
  finish(*work_);
  return outcome();
}

void CudaPlan::advance(int unit, int64_t amount) {
  if (!groups_table_.defined()) prepare_tables(false);
  auto* clocks = static_cast<int64_t*>(unwrap(clocks_));
  if (amount != 0) {
    captured_ |= capturing();
    check_cuda(runtime_.advance(index(), stream(), clocks + unit, amount));
  }
  write_current();
}

void CudaPlan::advance_by(int unit, const at::Tensor& amount) {
  if (!groups_table_.defined()) prepare_tables(false);
  captured_ |= capturing();
  const at::Tensor number = native(amount.scalar_type() == at::kInt ? amount : amount.to(at::kLong));
  check_cuda(runtime_.advance_by(index(), stream(), static_cast<int64_t*>(unwrap(clocks_)) + unit,
                                 unwrap<const void>(number), number.scalar_type() == at::kLong,
                                 unwrap<int32_t>(flags_) + unit));
  write_current();
}

void CudaPlan::write_current() {
  if (n_schedules_ == 0) return;
  check_cuda(runtime_.write_current(index(), stream(), schedules(), static_cast<int>(n_schedules_),
                                    unwrap<int32_t>(flags_) + kUpdates));
}

bool CudaPlan::set_program(int group, const std::string& name, std::vector<double> table, int unit, at::Tensor shown) {
  Plan::set_program(group, name, std::move(table), unit, std::move(shown));
  if (!groups_table_.defined()) return false;
  is_current();  // reads the group
  if (leaves_graph(group)) return true;
  rewrite(group, index_named(groups_[group], name));
  unwrap<int32_t>(flags_)[kUpdates] = 0;  // set again for those that are past their horizon
  write_current();
  return false;
}

std::vector<std::pair<at::Tensor, int64_t>> CudaPlan::exact_counts() const {
  if (!counts_.defined()) return {};
  const at::Tensor counts = counts_.cpu();
  return counts_to_save(static_cast<const int64_t*>(unwrap<const void>(counts)));
}

bool CudaPlan::sync_hparams(const py::list& param_groups) {
  if (!same_structure(param_groups)) return false;
  const bool now = capturing();
  if (!groups_table_.defined()) {
    if (!now) prepare_tables(false);
    return true;
  }
  if (!read_numbers()) return false;
  store_pending(now);
  return true;
}

}  // namespace fs
