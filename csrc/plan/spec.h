// SPDX-License-Identifier: Apache-2.0
// What an optimizer is: the Python spec (fusedsched/optim/spec.py), and the rules of core/ that belong to it.
#pragma once

#include <pybind11/pytypes.h>

#include <string>
#include <vector>

#include "core/rules.h"

namespace fs {

namespace py = pybind11;

// A StepInfo for many groups, which mostly have the same betas: those are not evaluated for each.
class StepOfGroups {
 public:
  explicit StepOfGroups(double gain) : gain(gain) {}
  // The update that follows so many.
  void follow(int64_t updates) {
    const double next = static_cast<double>(updates + 1);
    if (next == step) return;
    step = next;
    known_[0] = known_[1] = {};
  }
  double bias_correction(double beta) const {
    for (const Known& known : known_) {
      if (known.beta == beta) return known.correction;
    }
    last_ = 1 - last_;
    known_[last_] = {beta, fs::bias_correction(beta, step)};
    return known_[last_].correction;
  }

  const double gain;
  double step = 0.0;

 private:
  struct Known {
    double beta = -1.0, correction = 0.0;
  };
  mutable Known known_[2];
  mutable int last_ = 0;
};

// What the plan asks of a rule, for all rules alike.
struct RuleInfo {
  const char* name;  // without the k
  int states;
  void (*prepare)(const double* hyper, const StepOfGroups& info, double* scalars);  // kMaxScalars of them
};
extern const RuleInfo kRuleInfo[kRules];

// A family of core/rules.h.
struct Family {
  std::string name;
  std::string hyperparameters, states;  // names, with spaces between them
  int first, n_rules;                   // its rules: first, first + 1 and so on
  int (*choose)(const double* hyper);   // the number of a rule within the family

  Rule rule_of(const double* hyper) const { return static_cast<Rule>(first + choose(hyper)); }
};
const std::vector<Family>& families();

// Where a group keeps one number, as users know it.
struct HyperparameterKey {
  std::string name;  // "lr", "beta1"
  PyObject* key;     // interned key of the dictionary
  int item;          // index inside a tuple, -1 if the value is the number itself
  bool flag;         // true or false
};

struct Spec {
  // spec: an OptimizerSpec. Throws ValueError if this module has no rules of that family, or others.
  explicit Spec(const py::handle& spec);

  const Family* family;
  std::vector<HyperparameterKey> hyperparameters;
  std::vector<PyObject*> state_keys;  // interned
  bool counts_steps;                  // state["step"] holds the number of updates
  std::string sparse_error;           // the first sentence about a sparse gradient
};

}  // namespace fs
