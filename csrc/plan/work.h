// SPDX-License-Identifier: Apache-2.0
// What one step does: spans for the kernels, their scalars, and the copies that have to live until it is done.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace fs {

// Work is shared out by units of 64 elements, so that no two threads write to one cache line of a 16-bit array that
// starts on a line. 512 units are some 15 microseconds: below that a second thread costs more than it does.
constexpr int64_t kUnit = 64;
constexpr int64_t kGrain = 512;

struct Plan::Work {
  std::vector<Entry*> entries;          // the parameters that have a gradient
  std::vector<double> scalars;          // kMaxScalars each, shared by the entries of one group at one step
  std::vector<int64_t> unit_ends;       // running sum of the entries' work units
  std::vector<std::pair<Entry*, at::Tensor>> copies;  // gradients laid out anew
  std::vector<Entry*> packed;         // parameters with gaps, to be written back from their packed copies
  bool cold = false;                    // what the step reads has left the cache since the last one
  bool moved = true;                    // something else than a gradient is not as the kernels were told

  void clear() {
    entries.clear();
    scalars.clear();
    unit_ends.clear();
    copies.clear();
    packed.clear();
  }
};

}  // namespace fs
