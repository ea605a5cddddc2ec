// SPDX-License-Identifier: Apache-2.0
// The tables of a CudaPlan: built when something moved, and the numbers of the groups, brought along when they change.
#include <algorithm>
#include <cstring>
#include <limits>
#include <map>

#include "plan/cuda_part.h"
#include "plan/work.h"

namespace fs {

using fs_cuda::kMaxBlocks, fs_cuda::kMaxEdits, fs_cuda::kMaxGrads, fs_cuda::kTile;

// From memory that the device can read while this thread goes on; torch keeps that memory until it has.
at::Tensor CudaPlan::upload(const void* data, size_t bytes) {
  const auto options = at::TensorOptions(at::kCPU).dtype(at::kByte).pinned_memory(device_.is_cuda());
  at::Tensor host = clocks_.new_empty({static_cast<int64_t>(bytes)}, options);
  std::memcpy(unwrap(host), data, bytes);
  return host.to(device_, /*non_blocking=*/true);
}

CudaPlan::SlotKind CudaPlan::kind_of(size_t group, size_t slot) const {
  if (followed_.count(static_cast<int64_t>(group * kMaxSlots + slot)) > 0) return kFollowing;
  const Slot& s = groups_[group].slots()[slot];
  if (s.scheduled()) return kProgram;
  return s.on_device ? kTensor : kNumber;
}

// As the kernel is to find it; the memory of its program is kept.
fs_cuda::Slot CudaPlan::slot_of(size_t group, size_t slot) {
  const Slot& from = groups_[group].slots()[slot];
  const SlotKind kind = kind_of(group, slot);
  fs_cuda::Slot out{};
  out.written = std::numeric_limits<double>::quiet_NaN();  // nothing shown yet
  if (kind == kTensor) {
    out.tensor = from.address;
    out.tensor_dtype = *dtype_of(from.tensor.scalar_type());
  } else if (kind == kProgram) {
    const Program& program = *from.program;
    at::Tensor& table = programs_[group * kMaxSlots + slot];
    table = upload(program.table.data(), program.table.size() * sizeof(double));
    out.program = static_cast<const double*>(unwrap<const void>(table));
    out.clock = static_cast<const int64_t*>(unwrap<const void>(clocks_)) + program.unit;
    out.shown = program.here ? program.place : nullptr;
  }
  return out;
}

// In stream order: what was launched before reads the old slot and its program, whose memory torch hands out again only
// to what comes after.
void CudaPlan::rewrite(size_t group, size_t slot) {
  kinds_of_slots_[group * kMaxSlots + slot] = kind_of(group, slot);
  const at::Tensor old_program = programs_[group * kMaxSlots + slot];
  slots_[group].slots[slot] = slot_of(group, slot);
  send_slot(group, slot);
}

void CudaPlan::send_slot(size_t group, size_t slot) {
  const fs_cuda::Slot& now = slots_[group].slots[slot];
  const auto offset = static_cast<int64_t>(group * sizeof(fs_cuda::Group) + slot * sizeof now);
  groups_table_.narrow(0, offset, sizeof now).copy_(upload(&now, sizeof now), /*non_blocking=*/true);
}

void CudaPlan::note_capture() {
  captured_ = true;
  captured_rules_.clear();
  for (const Group& group : groups_) captured_rules_.push_back(rule_of(group));
}

// Whether a captured graph has the kernel of another rule than the group now asks for.
bool CudaPlan::leaves_graph(size_t group) const {
  return !captured_rules_.empty() && rule_of(groups_[group]) != captured_rules_[group];
}

void CudaPlan::build_groups() {
  const size_t n = groups_.size();
  slots_.assign(n, fs_cuda::Group{});
  programs_.assign(n * kMaxSlots, at::Tensor());
  kinds_of_slots_.assign(n * kMaxSlots, kNumber);
  known_.assign(n * kMaxSlots, 0.0);
  for (size_t g = 0; g < n; ++g) {
    groups_[g].refresh();  // the tensors of its programs were put there a moment ago
    const auto& slots = groups_[g].slots();
    for (size_t s = 0; s < slots.size(); ++s) {
      kinds_of_slots_[g * kMaxSlots + s] = kind_of(g, s);
      known_[g * kMaxSlots + s] = slots[s].value;
      slots_[g].slots[s] = slot_of(g, s);
    }
    groups_[g].take_changed();
  }
  groups_table_ = upload(slots_.data(), n * sizeof(fs_cuda::Group));
  numbers_ = upload(known_.data(), known_.size() * sizeof(double));
  show();
}

// Reads what changed in the groups; a number that became a tensor or the like is rewritten where it is. False: that
// cannot be, and the tables are out of date; or, if that is not accepted, somebody wrote to a number that follows a
// scheduler.
bool CudaPlan::read_numbers(bool accept) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!groups_[g].take_changed()) continue;
    const auto& slots = groups_[g].slots();
    for (size_t s = 0; s < slots.size(); ++s) {
      const size_t at = g * kMaxSlots + s;
      const SlotKind kind = kind_of(g, s);
      const bool known = std::memcmp(&known_[at], &slots[s].value, sizeof(double)) == 0;
      if (kind == kFollowing && (known || accept)) {
        known_[at] = slots[s].value;
        continue;
      }
      const fs_cuda::Slot& told = slots_[g].slots[s];
      const bool elsewhere = (kind == kTensor && slots[s].address != told.tensor) ||
                             (kind == kProgram && slots[s].program->here && slots[s].program->place != told.shown);
      const bool other = kind != kinds_of_slots_[at] || elsewhere;
      if (kind == kFollowing || (other && (leaves_graph(g) || capturing()))) {
        groups_[g].touch();  // the rest of it was not read
        return false;
      }
      if (other) rewrite(g, s);
      if (kind != kNumber || known) continue;
      known_[at] = slots[s].value;
      const auto same = [at](const fs_cuda::Edit& edit) { return edit.at == static_cast<int32_t>(at); };
      const auto found = std::find_if(edits_.begin(), edits_.end(), same);
      if (found != edits_.end()) {
        found->value = known_[at];
      } else if (edits_.size() <= kMaxEdits) {  // one more than fits says: all of them
        edits_.push_back({static_cast<int32_t>(at), 0, known_[at]});
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
  edits_.clear();
}

// Counts start from what is known here; the kernel corrects those whose shown step says otherwise. There are two for
// each entry: what SGD does without a momentum is counted apart, since the first count says whether a buffer is filled.
void CudaPlan::count_entries() {
  std::vector<int64_t> counts(2 * entries_.size() + 1);
  for (const Entry& e : entries_) {
    const Beside& beside = beside_[e.at];
    counts[e.at] = adam_ ? beside.step : (e.states > 0 && !beside.fresh ? 1 : 0);
  }
  counts_ = upload(counts.data(), counts.size() * sizeof(int64_t));
}

void CudaPlan::build_parts() {
  if (!counts_.defined()) count_entries();
  auto* counts = static_cast<int64_t*>(unwrap(counts_));
  std::map<std::pair<int, int>, std::vector<Entry*>> sorted;
  for (Entry& e : entries_) {
    if (e.kind != nullptr) sorted[{e.span.rule, e.kind->loop}].push_back(&e);
  }
  for (const auto& part : parts_) {
    if (captured_) kept_.push_back(part->arrays);  // a graph goes on with the arrays as they were
  }
  parts_.clear();
  part_of_.assign(entries_.size(), nullptr);
  place_of_.assign(entries_.size(), 0);
  for (const auto& [key, members] : sorted) {
    for (size_t begin = 0; begin < members.size(); begin += kMaxGrads) {
      Part& part = *parts_.emplace_back(std::make_unique<Part>());
      part.rule = static_cast<Rule>(key.first);
      part.loop = key.second;
      const size_t end = std::min(members.size(), begin + kMaxGrads);
      std::vector<fs_cuda::Array> arrays;
      for (size_t i = begin; i < end; ++i) {
        const Entry& e = *members[i];
        part_of_[e.at] = &part;
        place_of_[e.at] = static_cast<int32_t>(i - begin);
        part.members.push_back(members[i]);
        fs_cuda::Array a{};
        uintptr_t bits = reinterpret_cast<uintptr_t>(a.param = e.span.param);
        for (int k = 0; k < states_of(part.rule); ++k) {
          bits |= reinterpret_cast<uintptr_t>(a.state[k] = e.span.state[k]);
          a.state_dtype[k] = e.span.state_dtype[k];
        }
        a.aligned = bits % 16 == 0;
        a.shown_step = e.shown_step;
        a.numel = e.span.numel;
        a.count = counts + e.at + (adam_ || states_of(part.rule) > 0 ? 0 : entries_.size());
        a.group = e.group;
        a.param_dtype = e.span.param_dtype;
        a.grad_dtype = e.span.grad_dtype;
        arrays.push_back(a);
      }
      part.arrays = upload(arrays.data(), arrays.size() * sizeof(fs_cuda::Array));
    }
  }
  present_.clear();
  work_->moved = false;
}

// Gives each block the same number of tiles, of those arrays that have a gradient.
void CudaPlan::share_out(Part& part) {
  int64_t tiles = 0;
  part.present = 0;
  const auto tiles_of = [&part](size_t i) {
    return part.launch.grads[i] == nullptr ? 0 : (part.members[i]->span.numel + kTile - 1) / kTile;
  };
  for (size_t i = 0; i < part.members.size(); ++i) {
    tiles += tiles_of(i);
    part.present += part.launch.grads[i] != nullptr;
  }
  int resident = 1;
  check_cuda(runtime_.blocks(index(), part.rule, part.loop, &resident));
  part.blocks = static_cast<int>(std::clamp<int64_t>(tiles, 1, std::min(resident, kMaxBlocks)));
  int64_t before = 0;  // tiles of the arrays before i
  size_t i = 0;
  for (int b = 0; b <= part.blocks; ++b) {
    const int64_t first = tiles * b / part.blocks;
    while (i < part.members.size() && before + tiles_of(i) <= first) before += tiles_of(i++);
    part.launch.starts[b] = {static_cast<int32_t>(i), static_cast<int32_t>(first - before)};
  }
}

}  // namespace fs
