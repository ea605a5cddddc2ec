// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with momentum as torch defines it: the learning rate stands outside the buffer.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

struct SGDHyper {
  double lr, momentum, dampening, weight_decay;
  double gain;  // the gradient is multiplied by this: -1 to maximize, 1/scale to unscale
};

template <class A>
struct SGDScalars {
  A gain, weight_decay, keep, intake, look_ahead, lr;
};

enum class Momentum { kNone, kPlain, kNesterov };

template <Momentum kMomentum, bool kDecay>
struct SGDRule {
  static constexpr int kStates = kMomentum == Momentum::kNone ? 0 : 1;  // momentum_buffer
  template <class A>
  using Scalars = SGDScalars<A>;

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

// first: the buffer is new (zeros). torch then stores the gradient itself, without dampening.
FS_HD SGDScalars<double> prepare(const SGDHyper& h, bool first) {
  SGDScalars<double> s;
  s.gain = h.gain;
  s.weight_decay = h.weight_decay;
  s.keep = first ? 0.0 : h.momentum;
  s.intake = first ? 1.0 : 1.0 - h.dampening;
  s.look_ahead = h.momentum;
  s.lr = h.lr;
  return s;
}

FS_NAMESPACE_END
