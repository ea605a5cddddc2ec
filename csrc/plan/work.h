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
// Elements from which on an update releases the interpreter: some 250 microseconds. What it works on is held then, at
// the cost of a hundred elements for each array. So arrays are large, or there are so many that others would wait for
// milliseconds.
constexpr int64_t kReleased = int64_t{1} << 19, kReleasedEach = int64_t{1} << 14, kReleasedAnyway = int64_t{1} << 23;

struct Plan::Work {
  std::vector<Entry*> entries;          // the parameters that have a gradient
  std::vector<double> scalars;          // kMaxScalars each, shared by the entries of one group at one step
  std::vector<int64_t> unit_ends;       // running sum of the entries' work units
  int64_t elements = 0;                 // of all entries
  std::vector<std::pair<Entry*, at::Tensor>> copies;  // gradients laid out anew
  std::vector<Entry*> packed;           // parameters with gaps, to be written back from their packed copies
  bool cold = false;                    // what the step reads has left the cache since the last one
  bool moved = true;                    // something else than a gradient is not as the kernels were told

  // What is not to be freed before the step is done. Filled only where other code may run in between.
  std::vector<py::object> objects;
  std::vector<at::Tensor> gradients;
  bool holds = false;

  void hold(PyObject* object) {
    if (object != nullptr) objects.push_back(py::reinterpret_borrow<py::object>(object));
  }
  // Of an entry whose state was found to be there.
  void hold_arrays(const Entry& entry, const StateObjects& found) {
    for (int k = 0; k < kRuleInfo[entry.rule].states; ++k) hold(found.state[k]);
    hold(found.step);
    gradients.push_back(gradient_of(*entry.param().unsafeGetTensorImpl()));
  }
  bool is_long() const {
    if (elements < kReleased) return false;
    return elements >= kReleasedAnyway || elements >= kReleasedEach * static_cast<int64_t>(entries.size());
  }
  void release() {
    objects.clear();
    gradients.clear();
    holds = false;
  }
  void clear() {
    entries.clear();
    scalars.clear();
    unit_ends.clear();
    elements = 0;
    copies.clear();
    packed.clear();
    release();
  }
};

struct Plan::Release {
  Work& work;
  ~Release() { work.release(); }
};

}  // namespace fs
