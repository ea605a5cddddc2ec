// SPDX-License-Identifier: Apache-2.0
// Lion: the step is the sign of a mixture of momentum and gradient. Chen et al. 2023, arXiv 2302.06675.
#pragma once

#include "rule.h"

FS_NAMESPACE_BEGIN

// A rule with and without a term is two entries, since 0 * inf is not "no term".
#define FS_LION_RULES(X)    \
  X(kLion, LionRule<false>) \
  X(kLionDecay, LionRule<true>)

struct Lion {
  static constexpr const char* kFamily = "lion";
  enum Hyper : int { kLr, kBeta1, kBeta2, kWeightDecay, kMaximize };
  static constexpr const char* kHyperparameters = "lr beta1 beta2 weight_decay maximize";
  static constexpr const char* kStates = "exp_avg";
  enum Rule : int { FS_LION_RULES(FS_RULE_NAME) kRuleCount };

  static Rule choose(const double* hyper) { return hyper[kWeightDecay] != 0.0 ? kLionDecay : kLion; }
};

template <class A>
struct LionScalars {
  A gain, decay, lr, beta1, one_minus_beta1, beta2, one_minus_beta2;
};

template <bool kDecay>
struct LionRule {
  static constexpr int kStates = 1;
  template <class A>
  using Scalars = LionScalars<A>;

  // The differences from 1 are taken here, in double: in float32, 1 - beta2 has lost the digits that matter.
  template <class Info>
  FS_HD static LionScalars<double> prepare(const double* hyper, const Info& info) {
    LionScalars<double> s;
    s.gain = hyper[Lion::kMaximize] != 0.0 ? -info.gain : info.gain;
    s.decay = hyper[Lion::kLr] * hyper[Lion::kWeightDecay];  // not 1 minus that: its rounding would add up
    s.lr = hyper[Lion::kLr];
    s.beta1 = hyper[Lion::kBeta1];
    s.one_minus_beta1 = 1.0 - s.beta1;
    s.beta2 = hyper[Lion::kBeta2];
    s.one_minus_beta2 = 1.0 - s.beta2;
    return s;
  }

  template <class A>
  FS_HD static void update(const Scalars<A>& s, A g, A& p, A (&state)[kStates]) {
    A& m = state[0];
    g *= s.gain;
    const A mixed = s.beta1 * m + s.one_minus_beta1 * g;
    // The sign of zero is zero, and that of NaN is NaN: a broken gradient shows in the parameter.
    const A sign = mixed > A(0) ? A(1) : mixed < A(0) ? A(-1) : mixed;
    A step = s.lr * sign;
    if constexpr (kDecay) step += s.decay * p;  // one rounding of p, not two
    p -= step;
    m = s.beta2 * m + s.one_minus_beta2 * g;
  }
};

FS_NAMESPACE_END
