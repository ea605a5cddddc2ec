// SPDX-License-Identifier: Apache-2.0
// The plan: every parameter of every group, where its arrays lie and what was last known of them. Built once, checked at
// each step by reading pointers, rebuilt when something moved. One call does a whole optimizer step.
#pragma once

#include <torch/extension.h>

#include <memory>
#include <string>
#include <vector>

#include "core/rules.h"
#include "cpu/kernels.h"
#include "group.h"

namespace fs {

// Where the elements of a tensor lie: what has to match for two arrays to be walked side by side.
struct Layout {
  std::vector<int64_t> sizes, strides;
  int64_t numel = 0;
  bool contiguous = false;
  bool matches(const at::TensorImpl& impl) const;
  bool same_order(const at::TensorImpl& impl) const;  // for a tensor whose shape was compared before
};

struct Entry {
  at::Tensor param;
  int32_t group = 0;
  int32_t index = 0;         // within its group
  Layout layout;             // of the state, and of a dense parameter
  bool foreign = false;      // not for these kernels: another backend takes it
  bool gathered = false;     // has gaps or a lazy conjugate: updated in a dense copy
  bool fresh = false;        // its momentum buffer has not been filled yet
  at::Tensor state[kMaxStates];
  WatchedDict state_dict;
  PyObject* state_objects[kMaxStates + 1] = {};  // as last seen in state_dict; the last one is the step
  c10::Storage step_storage;  // keeps shown_step alive
  float* shown_step = nullptr;
  int64_t step = 0;           // exact, beyond 2**24 too
  int states = -1;            // how many of the state tensors are known; -1: none, not even the step
};

class Plan {
 public:
  Plan(bool adam, py::list param_groups, py::dict state, at::Tensor clocks);

  enum Outcome { kDone, kRebuild, kStateMissing, kDoneWithEdits };

  // Reads and checks everything; changes nothing. kDone means: ready to apply.
  Outcome check(const py::list& param_groups, const py::dict& state);
  // Does what check found. gain: the gradients are multiplied by it, for AMP. counts: another backend updated something,
  // so this is an update even if these kernels have nothing to do.
  Outcome apply(double gain, bool counts);
  Outcome step(const py::list& param_groups, const py::dict& state, double gain);
  bool zero_grad(const py::list& param_groups, bool set_to_none);

  // Groups and indices of parameters that have a gradient but no state; of those that another backend takes.
  std::vector<std::pair<int, int>> missing() const { return missing_; }
  std::vector<std::pair<int, int>> foreign() const;
  // Takes in state that was made for these since.
  void adopt(const std::vector<std::pair<int, int>>& which);
  // Counts that float32 cannot hold, to be carried to the next plan and into checkpoints.
  std::vector<std::pair<at::Tensor, int64_t>> large_counts() const;
  void adopt_counts(const std::vector<std::pair<at::Tensor, int64_t>>& counts);

  void set_program(int group, const std::string& name, std::vector<double> table, int unit, at::Tensor shown);
  void advance(int unit, int64_t amount);

 private:
  struct Work;  // what one step updates

  void add(Entry entry, PyObject* param);
  void read_state(Entry& entry, PyObject* state);
  bool state_unchanged(Entry& entry);
  bool same_structure(const py::list& param_groups);
  bool collect(Work& work);
  bool prepare_gradient(Entry& entry, const at::Tensor& grad, fs_cpu::Span& span, Work& work);
  void write_scalars(Work& work, double gain);
  void run(Work& work);
  void finish(Work& work);
  Rule rule_of(const Group& group) const;
  int states_of(Rule rule) const;

  bool adam_;
  py::list param_groups_;
  py::dict state_;
  std::vector<PyObject*> group_objects_;
  std::vector<Group> groups_;
  std::vector<Entry> entries_;
  at::Tensor clocks_;
  int64_t* clock_;
  std::vector<std::pair<int, int>> missing_;
  std::shared_ptr<Work> work_;
};

}  // namespace fs
