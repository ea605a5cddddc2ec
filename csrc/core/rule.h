// SPDX-License-Identifier: Apache-2.0
// What every rule is written against: the contract between a rule and a launcher.
//
// A family is what an optimizer class chooses its rules from; each has a header, and rules.h lists them. It has
//   kFamily           its name, as in fusedsched/optim/spec.py
//   Hyper             the numbers of a group, in the order of the Python spec
//   kHyperparameters  their names; kStates: the names of the state arrays, in the order in which rules take them
//   Rule, kRuleCount  its rules, by number; choose(hyper): the rule of a group with these numbers
// A number that the host does not know is NaN for choose(), which then takes it for other than zero.
//
// A rule is one way to update an element. It has
//   kStates           how many of the family's state arrays it reads and writes
//   Scalars<A>        what update() needs of a group and a step; doubles to prepare(), then rounded to A
//   prepare(hyper, info), info being a StepInfo, and update(scalars, g, p, state)
// A rule knows no dtype, no index and no launcher. A launcher knows no rule by name.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

// 1 - beta ** step without the cancellation of the plain form. beta = 0 gives 1.
FS_HD double bias_correction(double beta, double step) { return -expm1(step * log(beta)); }

// What prepare() learns of a step, beside the group's numbers. A launcher may pass another class with these members.
struct StepInfo {
  double gain;  // the gradient is multiplied by it: 1/scale to unscale
  double step;  // the number of this update of the parameter, 1 for its first
  FS_HD double bias_correction(double beta) const { return fs::bias_correction(beta, step); }
};

// What a launcher does around update(), for all arrays of a launch. Rules never see it.
struct ElementOptions {
  enum class Rounding : uint8_t { kNearest, kStochastic };
  // What Role::kExact is: nothing, the float32 weight, its lower 16 bits, or the error of the last rounding.
  enum class Weights : uint8_t { kPlain, kMaster, kRemainder, kCompensation };
  Rounding rounding = Rounding::kNearest;
  Weights weights = Weights::kPlain;
  bool zero_grad = false;  // the gradient is zeroed once it is used
  double ema_decay = 0.0;  // of Role::kEma; 0 where there is none
};

// The passes of a step, in their order. kNorm: a norm of all gradients or updates, reduced in a fixed order.
enum class Pass : uint8_t { kNorm, kUpdate };

// For lists of rules: X(name, type).
#define FS_RULE_NAME(name, ...) name,

FS_NAMESPACE_END
