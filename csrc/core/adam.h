// SPDX-License-Identifier: Apache-2.0
// Adam and AdamW: how one element changes. Kingma & Ba 2015; Loshchilov & Hutter 2019; amsgrad: Reddi et al. 2018.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

// The numbers of a group, in this order. The last three are flags.
struct AdamSlot {
  enum : int { kLr, kBeta1, kBeta2, kEps, kWeightDecay, kAmsgrad, kMaximize, kDecoupled };
};

struct AdamBias {
  double first, second_inv_sqrt;
};

template <class A>
struct AdamScalars {
  A gain, keep, weight_decay, step_size, inv_sqrt_bc2, towards_grad, from_grad, beta2, one_minus_beta2, eps;
};

// 1 - beta ** step without the cancellation of the plain form. beta = 0 gives 1.
FS_HD double bias_correction(double beta, double step) { return -expm1(step * log(beta)); }

// step: the number of this update of the parameter, 1 for its first.
FS_HD AdamBias adam_bias(double beta1, double beta2, double step) {
  return {bias_correction(beta1, step), 1.0 / sqrt(bias_correction(beta2, step))};
}

// gain: the gradient is multiplied by it, 1/scale to unscale. The differences from 1 are taken here, in double: in
// float32, 1 - beta2 has lost the digits that matter.
FS_HD AdamScalars<double> adam_scalars(const double* slots, double gain, const AdamBias& bias) {
  const double lr = slots[AdamSlot::kLr], beta1 = slots[AdamSlot::kBeta1], beta2 = slots[AdamSlot::kBeta2];
  const double weight_decay = slots[AdamSlot::kWeightDecay];
  const bool decoupled = slots[AdamSlot::kDecoupled] != 0.0;
  AdamScalars<double> s;
  s.gain = slots[AdamSlot::kMaximize] != 0.0 ? -gain : gain;
  s.keep = decoupled ? 1.0 - lr * weight_decay : 1.0;
  s.weight_decay = decoupled ? 0.0 : weight_decay;
  s.step_size = lr / bias.first;
  s.inv_sqrt_bc2 = bias.second_inv_sqrt;
  s.from_grad = beta1 < 0.5 ? 1.0 : 0.0;
  s.towards_grad = beta1 < 0.5 ? -beta1 : 1.0 - beta1;
  s.beta2 = beta2;
  s.one_minus_beta2 = 1.0 - beta2;
  s.eps = slots[AdamSlot::kEps];
  return s;
}

// kCoupled: the weight decay is added to the gradient (Adam); otherwise it shrinks the parameter first (AdamW).
template <bool kCoupled, bool kAmsgrad>
struct AdamRule {
  static constexpr int kStates = kAmsgrad ? 3 : 2;  // exp_avg, exp_avg_sq, max_exp_avg_sq
  template <class A>
  using Scalars = AdamScalars<A>;

  FS_HD static AdamScalars<double> prepare(const double* slots, double gain, double step) {
    return adam_scalars(slots, gain, adam_bias(slots[AdamSlot::kBeta1], slots[AdamSlot::kBeta2], step));
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
