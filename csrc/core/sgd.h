// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with momentum as torch defines it: the learning rate stands outside the buffer.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

// The numbers of a group, in this order. The last two are flags.
struct SGDSlot {
  enum : int { kLr, kMomentum, kDampening, kWeightDecay, kNesterov, kMaximize };
};

template <class A>
struct SGDScalars {
  A gain, weight_decay, keep, intake, look_ahead, lr;
};

// gain: the gradient is multiplied by it, 1/scale to unscale. first: the buffer is new (zeros). torch then stores the
// gradient itself, without dampening; as it does while a schedule has the momentum at zero.
FS_HD SGDScalars<double> sgd_scalars(const double* slots, double gain, bool first) {
  SGDScalars<double> s;
  s.gain = slots[SGDSlot::kMaximize] != 0.0 ? -gain : gain;
  s.weight_decay = slots[SGDSlot::kWeightDecay];
  s.keep = first ? 0.0 : slots[SGDSlot::kMomentum];
  s.intake = first || slots[SGDSlot::kMomentum] == 0.0 ? 1.0 : 1.0 - slots[SGDSlot::kDampening];
  s.look_ahead = slots[SGDSlot::kMomentum];
  s.lr = slots[SGDSlot::kLr];
  return s;
}

enum class Momentum { kNone, kPlain, kNesterov };

template <Momentum kMomentum, bool kDecay>
struct SGDRule {
  static constexpr int kStates = kMomentum == Momentum::kNone ? 0 : 1;  // momentum_buffer
  template <class A>
  using Scalars = SGDScalars<A>;

  // step: the number of this update of the parameter, 1 for its first.
  FS_HD static SGDScalars<double> prepare(const double* slots, double gain, double step) {
    return sgd_scalars(slots, gain, step == 1.0);
  }

  template <class A>
  FS_HD static void update(const Scalars<A>& s, A g, A& p, A* state) {
    g *= s.gain;
    if constexpr (kDecay) g += s.weight_decay * p;
    if constexpr (kMomentum != Momentum::kNone) {
      A& buffer = state[0];
      buffer = s.keep * buffer + s.intake * g;
      g = kMomentum == Momentum::kNesterov ? g + s.look_ahead * buffer : buffer;
    }
    p -= s.lr * g;
  }
};

FS_NAMESPACE_END
