// SPDX-License-Identifier: Apache-2.0
// What the plan knows of a param group: its hyperparameters, read from the dictionary that the user edits.
#pragma once


#include <algorithm>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "plan/bridge.h"
#include "core/dtype.h"
#include "core/rules.h"
#include "plan/spec.h"

namespace fs {

// A Python dictionary that says whether it was written to since it was last read. It is borrowed: only a caller that
// has found it in an object that is alive may use it.
class WatchedDict {
 public:
  void watch(PyObject* dict) {
    dict_ = dict;
    seen_ = tag();
  }
  PyObject* ptr() const { return dict_; }
  // False means "surely not". CPython before 3.12 stamps each write to a dictionary (PEP 509); later versions do not,
  // so there the items are read again each time.
  bool may_have_changed() const {
#if PY_VERSION_HEX < 0x030C0000
    return !trust_tags || tag() != seen_;
#else
    return true;
#endif
  }
  void looked() {
    const uint64_t now = tag();
    if (seen_ != now) seen_ = now;
  }

  static bool trust_tags;  // false: behave as on CPython >= 3.12, for tests

 private:
  uint64_t tag() const {
#if PY_VERSION_HEX < 0x030C0000
    return reinterpret_cast<PyDictObject*>(dict_)->ma_version_tag;
#else
    return 0;
#endif
  }
  PyObject* dict_ = nullptr;
  uint64_t seen_ = 0;
};

// Whether each tensor in the state of a parameter has an address; where one has none, torch's operations update the
// parameter. Null: it has no state.
bool holds_native_tensors(PyObject* state);

// A native schedule of one hyperparameter. Its group holds a 0-dim float64 tensor with the value for the next update.
struct Program {
  std::vector<double> table;
  int unit = 0;            // which of the optimizer's clocks it reads
  at::Tensor shown;        // that tensor
  double* place = nullptr;  // its number, where it was last found
  double written = 0.0;    // what was last stored there; anything else is an edit
  uint32_t version = 0;    // of that tensor: on a device, where the number cannot be looked at, a new one is an edit
  bool here = false;       // whether this plan writes there; if not, another device's plan does
  bool edited = false;     // an edit means "constant from here on"

  // Finds the number: the memory of a tensor may be exchanged. Whether it is elsewhere than before.
  bool locate();
};

// Where the value of a hyperparameter comes from: a Python number, a tensor, or the present value of a program.
struct Hyperparameter {
  const HyperparameterKey* key;
  PyObject* object = nullptr;  // what the group held when last read. Borrowed, but for what `owned` keeps alive
  py::object owned;            // a Python number, or a tensor that a container made when it was read
  const at::TensorImpl* impl = nullptr;  // of a tensor, to be compared and nothing else; null: it is no tensor
  DType dtype{};
  const void* address = nullptr;  // where a kernel reads it; the memory of a tensor may be exchanged
  bool on_device = false;         // a kernel reads it
  std::unique_ptr<Program> program;

  // Only while the group is read.
  const at::Tensor& tensor() const { return tensor_of(object); }
  // Whether it is the tensor that its own program writes to, not something that a user put there.
  bool scheduled() const { return program && impl == program->shown.unsafeGetTensorImpl(); }
};

class Group {
 public:
  // index: which of the optimizer's groups it is, for errors. spec: outlives the group. device: tensors there are left
  // to the kernels to read; none: all numbers are read here.
  Group(PyObject* dict, int index, const Spec& spec, std::optional<at::Device> device);

  // Reads what changed; the group must be alive. False if the list of parameters was replaced or edited: the plan is
  // out of date.
  bool refresh();
  // Whether code of a user's number or container ran in the last refresh(): it may have changed anything.
  bool take_other_code() { return std::exchange(other_code_, false); }
  // Whether the dictionary still has the list that refresh() has found.
  bool has_same_list() const;
  // The numbers, in the order of the rules' Hyper. One that a kernel reads is NaN.
  const double* values() const { return values_; }
  const Spec& spec() const { return *spec_; }
  Rule rule() const { return spec_->family->rule_of(values_); }
  PyObject* params() const { return params_; }

  void set_program(const std::string& name, std::vector<double> table, int unit, const at::Tensor& shown,
                   const int64_t* clocks);
  // Throws if a program ended before the present clock and was told not to hold its last value.
  void check_horizons(const int64_t* clocks) const;
  // Stores the values for the next update.
  void show(const int64_t* clocks);
  bool has_programs() const { return has_programs_; }
  // Whether an edit of a scheduled value was found since the last call; whether anything was read anew.
  bool take_edited() { return std::exchange(newly_edited_, false); }
  bool take_changed() { return std::exchange(changed_, false); }
  void touch() { changed_ = true; }
  // Shows Python's garbage collector each reference held here, once.
  int traverse(visitproc visit, void* arg) const {
    for (const Hyperparameter& h : hyperparameters_) Py_VISIT(h.owned.ptr());
    return 0;
  }
  const std::vector<Hyperparameter>& hyperparameters() const { return hyperparameters_; }

 private:
  double& value_of(const Hyperparameter& h) { return values_[&h - hyperparameters_.data()]; }
  void read_items();
  std::string place(PyObject* key) const;
  double number(const Hyperparameter& h, PyObject* object) const;
  void check_pair(PyObject* key, PyObject* object) const;
  bool has_same_members() const;
  void expect_other_code();
  void read_object(Hyperparameter& h, PyObject* object, bool lasting);
  void read_values();
  void read_scheduled(Hyperparameter& h);
  void find_edit(Program& program);

  WatchedDict dict_;
  int index_;
  const Spec* spec_;
  std::optional<at::Device> device_;
  PyObject* params_ = nullptr;
  std::vector<PyObject*> members_;  // the parameters, to be compared and nothing else
  std::vector<Hyperparameter> hyperparameters_;
  double values_[kMaxHyperparameters] = {};
  bool volatile_ = false;      // holds a mutable container: reads its items at each step
  bool has_tensors_ = false;
  bool has_programs_ = false;
  bool newly_edited_ = false;
  bool other_code_ = false;
  // While other code may run: the group and what it holds, which that code may remove.
  struct Alive {
    py::object group, items;
    struct Until {
      Alive& alive;
      ~Until() {
        if (alive.items) alive = {};
      }
    };
  } alive_;
  bool changed_ = true;
};

}  // namespace fs
