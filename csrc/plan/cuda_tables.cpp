// SPDX-License-Identifier: Apache-2.0
// The tables of a CudaPlan: built when something moved, and the numbers of the groups, brought along when they change.
#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "plan/cuda_batch.h"
#include "plan/work.h"

namespace fs {

using fs_cuda::kMaxBlocks, fs_cuda::kMaxPending, fs_cuda::kMaxGrads, fs_cuda::kTile;

// From memory that the device can read while this thread goes on; torch keeps that memory until it has.
at::Tensor CudaPlan::upload(const void* data, size_t bytes) {
  const auto options = at::TensorOptions(at::kCPU).dtype(at::kByte).pinned_memory(device_.is_cuda());
  at::Tensor host = clocks_.new_empty({static_cast<int64_t>(bytes)}, options);
  std::memcpy(unwrap(host), data, bytes);
  return host.to(device_, /*non_blocking=*/true);
}

CudaPlan::Source CudaPlan::source_of(size_t group, size_t k) const {
  if (followed_.count(static_cast<int64_t>(group * kMaxHyperparameters + k)) > 0) return kFollowing;
  const Hyperparameter& h = groups_[group].hyperparameters()[k];
  if (h.scheduled()) return kProgram;
  return h.on_device ? kTensor : kNumber;
}

// As the kernel is to find it; the memory of its program is kept.
fs_cuda::Hyperparameter CudaPlan::for_device(size_t group, size_t k) {
  const Hyperparameter& from = groups_[group].hyperparameters()[k];
  const Source source = source_of(group, k);
  fs_cuda::Hyperparameter out{};
  out.written = std::numeric_limits<double>::quiet_NaN();  // nothing shown yet
  if (source == kTensor) {
    out.tensor = from.address;
    out.tensor_dtype = *dtype_of(from.tensor.scalar_type());
  } else if (source == kProgram) {
    const Program& program = *from.program;
    at::Tensor& table = programs_[group * kMaxHyperparameters + k];
    table = upload(program.table.data(), program.table.size() * sizeof(double));
    out.program = static_cast<const double*>(unwrap<const void>(table));
    out.clock = static_cast<const int64_t*>(unwrap<const void>(clocks_)) + program.unit;
    out.shown = program.here ? program.place : nullptr;
  }
  return out;
}

// In stream order: what was launched before reads the old one and its program, whose memory torch hands out again only
// to what comes after.
void CudaPlan::rewrite(size_t group, size_t k) {
  sources_[group * kMaxHyperparameters + k] = source_of(group, k);
  const at::Tensor old_program = programs_[group * kMaxHyperparameters + k];
  device_groups_[group].hyperparameters[k] = for_device(group, k);
  send(group, k);
}

void CudaPlan::send(size_t group, size_t k) {
  const fs_cuda::Hyperparameter& now = device_groups_[group].hyperparameters[k];
  const auto offset = static_cast<int64_t>(group * sizeof(fs_cuda::Group) + k * sizeof now);
  groups_table_.narrow(0, offset, sizeof now).copy_(upload(&now, sizeof now), /*non_blocking=*/true);
}

void CudaPlan::note_capture() {
  captured_ = true;
  captured_rules_.clear();
  for (const Group& group : groups_) captured_rules_.push_back(group.rule());
}

// Whether a captured graph has the kernel of another rule than the group now asks for.
bool CudaPlan::leaves_graph(size_t group) const {
  return !captured_rules_.empty() && groups_[group].rule() != captured_rules_[group];
}

void CudaPlan::build_groups() {
  const size_t n = groups_.size();
  device_groups_.assign(n, fs_cuda::Group{});
  programs_.assign(n * kMaxHyperparameters, at::Tensor());
  sources_.assign(n * kMaxHyperparameters, kNumber);
  known_.assign(n * kMaxHyperparameters, 0.0);
  for (size_t g = 0; g < n; ++g) {
    groups_[g].refresh();  // the tensors of its programs were put there a moment ago
    const auto& numbers = groups_[g].hyperparameters();
    for (size_t k = 0; k < numbers.size(); ++k) {
      sources_[g * kMaxHyperparameters + k] = source_of(g, k);
      known_[g * kMaxHyperparameters + k] = groups_[g].values()[k];
      device_groups_[g].hyperparameters[k] = for_device(g, k);
    }
    groups_[g].take_changed();
  }
  groups_table_ = upload(device_groups_.data(), n * sizeof(fs_cuda::Group));
  numbers_ = upload(known_.data(), known_.size() * sizeof(double));
  show();
}

// Reads what changed in the groups; a number that became a tensor or the like is rewritten where it is. False: that
// cannot be, and the tables are out of date; or, if that is not accepted, user code wrote to a number that follows a
// scheduler.
bool CudaPlan::read_numbers(bool accept) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!groups_[g].take_changed()) continue;
    const auto& numbers = groups_[g].hyperparameters();
    for (size_t k = 0; k < numbers.size(); ++k) {
      const size_t at = g * kMaxHyperparameters + k;
      const Source source = source_of(g, k);
      const bool known = std::memcmp(&known_[at], &groups_[g].values()[k], sizeof(double)) == 0;
      if (source == kFollowing && (known || accept)) {
        known_[at] = groups_[g].values()[k];
        continue;
      }
      const fs_cuda::Hyperparameter& sent = device_groups_[g].hyperparameters[k];
      const Program* program = numbers[k].program.get();
      const bool elsewhere = (source == kTensor && numbers[k].address != sent.tensor) ||
                             (source == kProgram && program->here && program->place != sent.shown);
      const bool other = source != sources_[at] || elsewhere;
      if (source == kFollowing || (other && (leaves_graph(g) || capturing()))) {
        groups_[g].touch();  // the rest of it was not read
        return false;
      }
      if (other) rewrite(g, k);
      if (source != kNumber || known) continue;
      known_[at] = groups_[g].values()[k];
      const auto same = [at](const fs_cuda::PendingValue& edit) { return edit.at == static_cast<int32_t>(at); };
      const auto found = std::find_if(pending_values_.begin(), pending_values_.end(), same);
      if (found != pending_values_.end()) {
        found->value = known_[at];
      } else if (pending_values_.size() <= kMaxPending) {  // one more than fits says: all of them
        pending_values_.push_back({static_cast<int32_t>(at), 0, known_[at]});
      }
    }
  }
  return true;
}

// All numbers at once, where there are more edits than a launch takes along, or where one may not take any.
void CudaPlan::flush_numbers(bool now) {
  const size_t bytes = known_.size() * sizeof(double);
  if (now) {
    check_cuda(runtime_.write(index(), unwrap(numbers_), known_.data(), bytes));
  } else {
    const at::Tensor fresh = upload(known_.data(), bytes);
    numbers_.copy_(fresh, /*non_blocking=*/true);  // in its place: captured graphs hold the address
  }
  pending_values_.clear();
}

// Counts start from what is known here; the kernel corrects those whose shown step says otherwise. There are two for
// each entry: updates by a rule without state are counted apart, since the first count says whether the state is new.
void CudaPlan::count_entries() {
  std::vector<int64_t> counts(2 * entries_.size() + 1);
  for (const Entry& e : entries_) counts[e.at] = entry_counts_[e.at].updates;
  counts_ = upload(counts.data(), counts.size() * sizeof(int64_t));
}

void CudaPlan::build_batches() {
  if (!counts_.defined()) count_entries();
  auto* counts = static_cast<int64_t*>(unwrap(counts_));
  std::map<std::pair<int, int>, std::vector<Entry*>> sorted;
  for (Entry& e : entries_) {
    if (e.kind != nullptr) sorted[{e.span.rule, e.kind->variant}].push_back(&e);
  }
  for (const auto& batch : batches_) {
    if (captured_) kept_.push_back(batch->arrays);  // a graph goes on with the arrays as they were
  }
  batches_.clear();
  batch_of_.assign(entries_.size(), nullptr);
  index_in_batch_.assign(entries_.size(), 0);
  for (const auto& [key, members] : sorted) {
    for (size_t begin = 0; begin < members.size(); begin += kMaxGrads) {
      LaunchBatch& batch = *batches_.emplace_back(std::make_unique<LaunchBatch>());
      batch.rule = static_cast<Rule>(key.first);
      batch.variant = key.second;
      const size_t end = std::min(members.size(), begin + kMaxGrads);
      std::vector<fs_cuda::Array> arrays;
      for (size_t i = begin; i < end; ++i) {
        const Entry& e = *members[i];
        batch_of_[e.at] = &batch;
        index_in_batch_[e.at] = static_cast<int32_t>(i - begin);
        batch.members.push_back(members[i]);
        fs_cuda::Array a{};
        uintptr_t bits = reinterpret_cast<uintptr_t>(a.param = e.span.param);
        for (int k = 0; k < kRuleInfo[batch.rule].states; ++k) {
          bits |= reinterpret_cast<uintptr_t>(a.state[k] = e.span.state[k]);
          a.state_dtype[k] = e.span.state_dtype[k];
        }
        a.aligned = bits % 16 == 0;
        a.shown_step = e.shown_step;
        a.numel = e.span.numel;
        const bool counts_apart = !spec_of(e).counts_steps && kRuleInfo[batch.rule].states == 0;
        a.count = counts + e.at + (counts_apart ? entries_.size() : 0);
        a.group = e.group;
        a.param_dtype = e.span.param_dtype;
        a.grad_dtype = e.span.grad_dtype;
        arrays.push_back(a);
      }
      batch.arrays = upload(arrays.data(), arrays.size() * sizeof(fs_cuda::Array));
    }
  }
  present_.clear();
  work_->moved = false;
}

// Gives each block the same number of tiles, of those arrays that have a gradient.
void CudaPlan::assign_tiles(LaunchBatch& batch) {
  int64_t tiles = 0;
  batch.present = 0;
  const auto tiles_of = [&batch](size_t i) {
    return batch.launch.grads[i] == nullptr ? 0 : (batch.members[i]->span.numel + kTile - 1) / kTile;
  };
  for (size_t i = 0; i < batch.members.size(); ++i) {
    tiles += tiles_of(i);
    batch.present += batch.launch.grads[i] != nullptr;
  }
  int resident = 1;
  check_cuda(runtime_.blocks(index(), batch.rule, batch.variant, &resident));
  batch.blocks = static_cast<int>(std::clamp<int64_t>(tiles, 1, std::min(resident, kMaxBlocks)));
  int64_t before = 0;  // tiles of the arrays before i
  size_t i = 0;
  for (int b = 0; b <= batch.blocks; ++b) {
    const int64_t first = tiles * b / batch.blocks;
    while (i < batch.members.size() && before + tiles_of(i) <= first) before += tiles_of(i++);
    batch.launch.starts[b] = {static_cast<int32_t>(i), static_cast<int32_t>(first - before)};
  }
}

}  // namespace fs
