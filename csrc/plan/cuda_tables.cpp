// SPDX-License-Identifier: Apache-2.0
// The tables of a CudaPlan: built when something moved, and the numbers of the groups, brought along when they change.
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <map>

#include "plan/cuda_batch.h"
#include "plan/work.h"

namespace fs {

using fs_cuda::kMaxBlocks, fs_cuda::kMaxGrads, fs_cuda::kTile;

// From memory that the device can read while this thread goes on; torch keeps that memory until it has.
at::Tensor CudaPlan::upload(const void* data, size_t bytes) {
  const auto options = at::TensorOptions(at::kCPU).dtype(at::kByte).pinned_memory(device_.is_cuda());
  at::Tensor host = clocks_.new_empty({static_cast<int64_t>(bytes)}, options);
  std::memcpy(unwrap(host), data, bytes);
  return host.to(device_, /*non_blocking=*/true);
}

CudaPlan::Source CudaPlan::source_of(size_t group, size_t k) const {
  const Hyperparameter& h = groups_[group].hyperparameters()[k];
  if (h.scheduled()) return kProgram;
  return h.on_device ? kTensor : kNumber;
}

// Where the kernel is to read it. The value of a native schedule that another device shows has a place in this table.
fs_cuda::Hyperparameter CudaPlan::for_device(size_t group, size_t k) const {
  const Hyperparameter& h = groups_[group].hyperparameters()[k];
  double* const ours = device_groups_[group].values + kMaxHyperparameters + k;
  switch (source_of(group, k)) {
    case kTensor: return {h.address, h.dtype};
    case kProgram: return {h.program->here ? h.program->place : ours, DType::kFloat64};
    case kNumber: break;
  }
  return {nullptr, DType::kFloat64};
}

// The memory of its program is kept.
fs_cuda::NativeSchedule CudaPlan::schedule_of(size_t group, size_t k) {
  fs_cuda::NativeSchedule out{};
  out.written = std::numeric_limits<double>::quiet_NaN();  // nothing stored yet
  if (source_of(group, k) != kProgram) return out;
  const Program& program = *groups_[group].hyperparameters()[k].program;
  at::Tensor& table = programs_[group * kMaxHyperparameters + k];
  table = upload(program.table.data(), program.table.size() * sizeof(double));
  out.program = static_cast<const double*>(unwrap<const void>(table));
  out.clock = static_cast<const int64_t*>(unwrap<const void>(clocks_)) + program.unit;
  out.place = static_cast<double*>(const_cast<void*>(for_device(group, k).tensor));
  return out;
}

// The list comes after its length.
fs_cuda::NativeSchedules CudaPlan::schedules() const {
  auto* n = static_cast<int64_t*>(unwrap(schedules_table_));
  return {n, reinterpret_cast<fs_cuda::NativeSchedule*>(n + 1)};
}

void CudaPlan::send(const at::Tensor& table, size_t offset, const void* data, size_t bytes) {
  table.narrow(0, static_cast<int64_t>(offset), static_cast<int64_t>(bytes)).copy_(upload(data, bytes), true);
}

// In stream order: what was launched before reads the old one and its program, whose memory torch hands out again only
// to what comes after.
void CudaPlan::rewrite(size_t group, size_t k) {
  const size_t at = group * kMaxHyperparameters + k;
  const at::Tensor old_program = programs_[at];
  sources_[at] = source_of(group, k);
  const fs_cuda::Hyperparameter& now = device_groups_[group].hyperparameters[k] = for_device(group, k);
  send(groups_table_, group * sizeof(fs_cuda::Group) + offsetof(fs_cuda::Group, hyperparameters) + k * sizeof now, &now,
       sizeof now);
  const fs_cuda::NativeSchedule schedule = schedule_of(group, k);
  const bool appended = schedule.program != nullptr && schedule_at_[at] < 0;
  if (appended) schedule_at_[at] = static_cast<int32_t>(n_schedules_++);
  if (schedule_at_[at] < 0) return;
  send(schedules_table_, sizeof(int64_t) + schedule_at_[at] * sizeof schedule, &schedule, sizeof schedule);
  if (appended) send(schedules_table_, 0, &n_schedules_, sizeof n_schedules_);
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
  is_current();  // reads the groups: the tensors of their programs were put there a moment ago
  const size_t n = groups_.size();
  device_groups_.assign(n, fs_cuda::Group{});
  programs_.assign(n * kMaxHyperparameters, at::Tensor());
  schedule_at_.assign(n * kMaxHyperparameters, -1);
  sources_.assign(n * kMaxHyperparameters, kNumber);
  known_.assign(n * kMaxHyperparameters, 0.0);
  pending_at_.assign(n * kMaxHyperparameters, 0);
  std::vector<fs_cuda::NativeSchedule> list(n * kMaxHyperparameters);  // room for all
  for (size_t g = 0; g < n; ++g) {
    device_groups_[g].values = unwrap<double>(rows_[g]);
    for (size_t k = 0; k < groups_[g].hyperparameters().size(); ++k) {
      const size_t at = g * kMaxHyperparameters + k;
      sources_[at] = source_of(g, k);
      known_[at] = groups_[g].values()[k];
      device_groups_[g].hyperparameters[k] = for_device(g, k);
      if (sources_[at] == kNumber) pending_values_.push_back({static_cast<int32_t>(at), 0, known_[at]});
      if (sources_[at] != kProgram) continue;
      list[n_schedules_] = schedule_of(g, k);
      schedule_at_[at] = static_cast<int32_t>(n_schedules_++);
    }
    groups_[g].take_changed();
  }
  groups_table_ = upload(device_groups_.data(), n * sizeof(fs_cuda::Group));
  std::vector<char> bytes(sizeof n_schedules_ + list.size() * sizeof list[0]);
  std::memcpy(bytes.data(), &n_schedules_, sizeof n_schedules_);
  if (!list.empty()) std::memcpy(bytes.data() + sizeof n_schedules_, list.data(), list.size() * sizeof list[0]);
  schedules_table_ = upload(bytes.data(), bytes.size());
  store_pending(false);
  write_current();
}

// Reads what changed in the groups; a number that became a tensor or the like is rewritten where it is. False: that
// cannot be, and the tables are out of date.
bool CudaPlan::read_numbers() {
  bool rewritten = false;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!groups_[g].take_changed()) continue;
    for (size_t k = 0; k < groups_[g].hyperparameters().size(); ++k) {
      const size_t at = g * kMaxHyperparameters + k;
      const Source source = source_of(g, k);
      if (source != sources_[at] || for_device(g, k).tensor != device_groups_[g].hyperparameters[k].tensor) {
        if (in_step()) hold(*work_);
        if (leaves_graph(g) || capturing()) {
          groups_[g].touch();  // the rest of it was not read
          return false;
        }
        rewritten |= source == kProgram;
        rewrite(g, k);
      }
      if (source == kNumber) read_number(at, groups_[g].values()[k]);
    }
  }
  if (rewritten) write_current();
  return true;
}

void CudaPlan::read_number(size_t at, double value) {
  if (std::memcmp(&known_[at], &value, sizeof value) == 0) return;
  known_[at] = value;
  const size_t i = pending_at_[at];  // where it is, if it is there
  if (i < pending_values_.size() && pending_values_[i].at == static_cast<int32_t>(at)) {
    pending_values_[i].value = value;
  } else {
    pending_at_[at] = pending_values_.size();
    pending_values_.push_back({static_cast<int32_t>(at), 0, value});
  }
}

// Stores the pending values in the table, where they are more than a launch takes along, or where it may take none. The
// rest of the table is not the host's: schedulers write it.
void CudaPlan::store_pending(bool now) {
  const auto& values = pending_values_;
  const auto* groups = static_cast<const fs_cuda::Group*>(unwrap<const void>(groups_table_));
  if (now) {
    std::vector<fs_cuda::HostCopy> copies;
    for (const fs_cuda::PendingValue& value : values) {
      double* row = device_groups_[value.at / kMaxHyperparameters].values;
      copies.push_back({row + value.at % kMaxHyperparameters, &value.value, sizeof(double)});
    }
    call_on(device_, runtime_.write, copies.data(), static_cast<int>(copies.size()));
  }
  if (!now && !values.empty()) {
    const at::Tensor there = upload(values.data(), values.size() * sizeof values[0]);
    call_on(device_, runtime_.store, stream(), groups,
            static_cast<const fs_cuda::PendingValue*>(unwrap<const void>(there)), static_cast<int>(values.size()));
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
    if (e.kind != nullptr) sorted[{e.rule, e.kind->variant}].push_back(&e);
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
      std::vector<Array> arrays;
      for (size_t i = begin; i < end; ++i) {
        const Entry& e = *members[i];
        batch_of_[e.at] = &batch;
        index_in_batch_[e.at] = static_cast<int32_t>(i - begin);
        batch.members.push_back(members[i]);
        Array a = e.array;
        a.data[kGrad] = nullptr;  // comes with each launch
        uintptr_t bits = reinterpret_cast<uintptr_t>(a.data[kParam]);
        for (int k = 0; k < kMaxStates; ++k) {
          if (k < kRuleInfo[batch.rule].states) {
            bits |= reinterpret_cast<uintptr_t>(a.data[kState0 + k]);
          } else {
            a.data[kState0 + k] = nullptr;
          }
        }
        a.aligned = bits % 16 == 0;
        const bool counts_apart = !spec_of(e).counts_steps && kRuleInfo[batch.rule].states == 0;
        a.count = counts + e.at + (counts_apart ? entries_.size() : 0);
        arrays.push_back(a);
      }
      batch.arrays = upload(arrays.data(), arrays.size() * sizeof(Array));
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
    return batch.launch.grads[i] == nullptr ? 0 : (batch.members[i]->array.numel + kTile - 1) / kTile;
  };
  for (size_t i = 0; i < batch.members.size(); ++i) {
    tiles += tiles_of(i);
    batch.present += batch.launch.grads[i] != nullptr;
  }
  int resident = 1;
  call_on(device_, runtime_.blocks, batch.rule, batch.variant, &resident);
  batch.blocks = static_cast<int>(std::clamp<int64_t>(tiles, 1, std::min(resident, kMaxBlocks)));
  int64_t before = 0;  // tiles of the arrays before i
  size_t i = 0;
  for (int b = 0; b <= batch.blocks; ++b) {
    const int64_t first = tiles * b / batch.blocks;
    while (i < batch.members.size() && before + tiles_of(i) <= first) before += tiles_of(i++);
    batch.launch.starts[b] = {static_cast<int32_t>(i), static_cast<int32_t>(first - before)};
  }
  batch.launch.starts[0] = {0, 0};  // arrays without tiles before the first tile are counted too
  uintptr_t absent = 0;  // arrays without a gradient from here on
  for (size_t k = batch.members.size(); k-- > 0;) {
    absent = batch.launch.grads[k] == nullptr ? absent + 1 : 0;
    if (absent > 0) batch.launch.grads[k] = reinterpret_cast<void*>(absent);
  }
}

}  // namespace fs
