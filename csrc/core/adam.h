// SPDX-License-Identifier: Apache-2.0
// Adam and AdamW: how one element changes. Kingma & Ba 2015; Loshchilov & Hutter 2019; amsgrad: Reddi et al. 2018.
#pragma once

#include "rule.h"

FS_NAMESPACE_BEGIN

// A rule with and without a term is two entries, since 0 * inf is not "no term".
#define FS_ADAM_RULES(X)                  \
  X(kAdamW, AdamRule<false, false>)       \
  X(kAdamWAmsgrad, AdamRule<false, true>) \
  X(kAdamCoupled, AdamRule<true, false>)  \
  X(kAdamCoupledAmsgrad, AdamRule<true, true>)

struct Adam {
  static constexpr const char* kFamily = "adam";
  enum Hyper : int { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kAmsgrad, kMaximize, kDecoupled };
  static constexpr const char* kHyperparameters =
      "lr beta1 beta2 eps weight_decay amsgrad maximize decoupled_weight_decay";
  static constexpr const char* kStates = "exp_avg exp_avg_sq max_exp_avg_sq";
  enum Rule : int { FS_ADAM_RULES(FS_RULE_NAME) kRuleCount };

  static Rule choose(const double* hyper) {
    const bool amsgrad = hyper[kAmsgrad] != 0.0;
    const bool coupled = hyper[kDecoupled] == 0.0 && hyper[kWeightDecay] != 0.0;
    if (coupled) return amsgrad ? kAdamCoupledAmsgrad : kAdamCoupled;
    return amsgrad ? kAdamWAmsgrad : kAdamW;
  }
};

template <class A>
struct AdamScalars {
  A gain, keep, weight_decay, step_size, inv_sqrt_bc2, towards_grad, from_grad, beta2, one_minus_beta2, eps;
};

// kCoupled: the weight decay is added to the gradient (Adam); otherwise it shrinks the parameter first (AdamW).
template <bool kCoupled, bool kAmsgrad>
struct AdamRule {
  static constexpr int kStates = kAmsgrad ? 3 : 2;
  template <class A>
  using Scalars = AdamScalars<A>;

  // The differences from 1 are taken here, in double: in float32, 1 - beta2 has lost the digits that matter.
  template <class Info>
  FS_HD static AdamScalars<double> prepare(const double* hyper, const Info& info) {
    const double lr = hyper[Adam::kLr], beta1 = hyper[Adam::kBeta1], beta2 = hyper[Adam::kBeta2];
    const double weight_decay = hyper[Adam::kWeightDecay];
    const bool decoupled = hyper[Adam::kDecoupled] != 0.0;
    AdamScalars<double> s;
    s.gain = hyper[Adam::kMaximize] != 0.0 ? -info.gain : info.gain;
    s.keep = decoupled ? 1.0 - lr * weight_decay : 1.0;
    s.weight_decay = decoupled ? 0.0 : weight_decay;
    s.step_size = lr / info.bias_correction(beta1);
    s.inv_sqrt_bc2 = 1.0 / sqrt(info.bias_correction(beta2));
    s.from_grad = beta1 < 0.5 ? 1.0 : 0.0;
    s.towards_grad = beta1 < 0.5 ? -beta1 : 1.0 - beta1;
    s.beta2 = beta2;
    s.one_minus_beta2 = 1.0 - beta2;
    s.eps = hyper[Adam::kEps];
    return s;
  }

  template <class A>
  FS_HD static void update(const Scalars<A>& s, A g, A& p, A (&state)[kStates]) {
    A& m = state[0];
    A& v = state[1];
    g *= s.gain;
    if constexpr (kCoupled) {
      g += s.weight_decay * p;
    } else {
      p *= s.keep;
    }
    // Starting from the nearer end, the difference is multiplied by at most a half: beta1 = 0 gives g to the last bit.
    m = (s.from_grad != A(0) ? g : m) + s.towards_grad * (g - m);
    v = s.beta2 * v + s.one_minus_beta2 * g * g;
    A second = v;
    if constexpr (kAmsgrad) {
      state[2] = max(state[2], v);
      second = state[2];
    }
    p -= s.step_size * m / (sqrt(second) * s.inv_sqrt_bc2 + s.eps);
  }
};

FS_NAMESPACE_END
