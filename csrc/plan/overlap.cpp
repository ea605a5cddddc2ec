// SPDX-License-Identifier: Apache-2.0
// Parameters that share memory. They are updated one after the other, as torch does: not by two threads at once, and not
// in copies. So these kernels leave them to the reference.
#include <algorithm>

#include "plan/plan.h"
#include "plan/tensors.h"

namespace fs {

namespace {

// Where the elements of a tensor lie, gaps included.
struct Extent {
  uintptr_t begin, end;
  size_t at;  // among all entries
};

Extent extent_of(const at::Tensor& p, size_t at) {
  int64_t last = 0;
  for (int64_t d = 0; d < p.dim(); ++d) last += (p.size(d) - 1) * p.stride(d);
  const auto begin = reinterpret_cast<uintptr_t>(unwrap<const void>(p));
  return {begin, begin + static_cast<uintptr_t>((last + 1) * static_cast<int64_t>(p.itemsize())), at};
}

}  // namespace

// By entry, whether another one lies in the same memory.
std::vector<bool> Plan::sharing() const {
  std::vector<Extent> extents;
  for (const Entry& e : entries_) {
    const at::Tensor& p = e.param();
    if (is_native(p, device_) && p.numel() > 0 && is_backed(p)) extents.push_back(extent_of(p, e.at));
  }
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  std::vector<bool> found(entries_.size());
  const Extent* furthest = nullptr;
  for (const Extent& extent : extents) {
    if (furthest != nullptr && extent.begin < furthest->end) found[extent.at] = found[furthest->at] = true;
    if (furthest == nullptr || extent.end > furthest->end) furthest = &extent;
  }
  return found;
}

// Whether a parameter of these kernels has come to share memory since they were given it.
bool Plan::shares_anew() const {
  const std::vector<bool> now = sharing();
  return std::any_of(entries_.begin(), entries_.end(), [&now](const Entry& e) { return now[e.at] && !e.unsupported; });
}

}  // namespace fs
