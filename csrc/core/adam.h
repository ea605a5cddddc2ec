// SPDX-License-Identifier: Apache-2.0
// Adam and AdamW: how one element changes. Kingma & Ba 2015; Loshchilov & Hutter 2019; amsgrad: Reddi et al. 2018.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

struct AdamHyper {
  double lr, beta1, beta2, eps, weight_decay;
  double gain;  // the gradient is multiplied by this: -1 to maximize, 1/scale to unscale
};

template <class A>
struct AdamScalars {
  A gain, keep, weight_decay, step_size, inv_sqrt_bc2, towards_grad, from_grad, beta2, one_minus_beta2, eps;
};

// 1 - beta ** step without the cancellation of the plain form. beta = 0 gives 1.
FS_HD double bias_correction(double beta, double step) { return -expm1(step * log(beta)); }

// kCoupled: the weight decay is added to the gradient (Adam); otherwise it shrinks the parameter first (AdamW).
template <bool kCoupled, bool kAmsgrad>
struct AdamRule {
  static constexpr int kStates = kAmsgrad ? 3 : 2;  // exp_avg, exp_avg_sq, max_exp_avg_sq
  template <class A>
  using Scalars = AdamScalars<A>;

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

struct AdamBias {
  double first, second_inv_sqrt;
};

// step: the number of this update of the parameter, 1 for its first.
FS_HD AdamBias adam_bias(double beta1, double beta2, double step) {
  return {bias_correction(beta1, step), 1.0 / sqrt(bias_correction(beta2, step))};
}

// The differences from 1 are taken here, in double: in float32, 1 - beta2 has lost the digits that matter.
FS_HD AdamScalars<double> prepare(const AdamHyper& h, bool decoupled, const AdamBias& bias) {
  AdamScalars<double> s;
  s.gain = h.gain;
  s.keep = decoupled ? 1.0 - h.lr * h.weight_decay : 1.0;
  s.weight_decay = decoupled ? 0.0 : h.weight_decay;
  s.step_size = h.lr / bias.first;
  s.inv_sqrt_bc2 = bias.second_inv_sqrt;
  s.from_grad = h.beta1 < 0.5 ? 1.0 : 0.0;
  s.towards_grad = h.beta1 < 0.5 ? -h.beta1 : 1.0 - h.beta1;
  s.beta2 = h.beta2;
  s.one_minus_beta2 = 1.0 - h.beta2;
  s.eps = h.eps;
  return s;
}

FS_NAMESPACE_END
