// SPDX-License-Identifier: Apache-2.0
// What one step does: spans for the kernels, their scalars, and the copies that have to live until it is done.
#pragma once

#include <vector>

#include "plan/plan.h"

namespace fs {

// Work is shared out by units of 64 elements, so that no two threads write to one cache line of a 16-bit array that
// starts on a line.
constexpr int64_t kUnit = 64;
// Nanoseconds of one thread from which on an update releases the interpreter. What it works on is held then, at the cost
// of a hundred elements for each array. So arrays are large, or there are so many that others would wait for
// milliseconds.
constexpr double kReleased = 200e3, kReleasedAnyway = 4e6;
constexpr int64_t kReleasedEach = int64_t{1} << 14;  // elements

struct Plan::Work {
  std::vector<Entry*> entries;          // the parameters that have a gradient
  std::vector<double> scalars;          // kMaxScalars each, shared by the entries of one group at one step
  std::vector<int64_t> unit_ends;       // running sum of the entries' work units
  int64_t elements = 0;                 // of all entries
  std::vector<std::pair<at::Tensor, at::Tensor>> copies;  // gradients that were laid out anew, and their copies
  std::vector<Entry*> packed;           // parameters with gaps, to be written back from their packed copies
  bool cold = false;                    // what the step reads has left the cache since the last one
  bool moved = true;                    // something else than a gradient is not as the kernels were told

  // Of each entry, where holds_gradients says so. Held until the step is done.
  std::vector<at::Tensor> gradients;
  bool holds_gradients = true;
  // What else is not to be freed until then. Filled only where other code may run in between.
  std::vector<py::object> objects;
  bool holds = false;

  void hold(PyObject* object) {
    if (object != nullptr) objects.push_back(py::reinterpret_borrow<py::object>(object));
  }
  // Of an entry whose state was found to be there.
  void hold_state(const Entry& entry) {
    for (int k = 0; k < kRuleInfo[entry.rule].states; ++k) hold(entry.state[k]);
    hold(entry.step);
  }
  // Nanoseconds that one thread needs, if all arrays are in its cache; twice that from memory.
  double estimate() const { return 0.5 * static_cast<double>(elements) + 20.0 * static_cast<double>(entries.size()); }
  bool is_long() const {
    if (estimate() < kReleased) return false;
    return estimate() >= kReleasedAnyway || elements >= kReleasedEach * static_cast<int64_t>(entries.size());
  }
  void reserve(size_t n) {  // so that references to gradients stay valid
    entries.reserve(n);
    unit_ends.reserve(n);
    gradients.reserve(n);
  }
  void release() {
    holds_gradients = true;
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
    objects.clear();
    gradients.clear();
    holds = false;
  }
};

struct Plan::Release {
  Work& work;
  bool wanted = true;
  ~Release() {
    if (wanted) work.release();
  }
};

}  // namespace fs
