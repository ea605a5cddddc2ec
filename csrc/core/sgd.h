// SPDX-License-Identifier: Apache-2.0
// Stochastic gradient descent with momentum as torch defines it: the learning rate stands outside the buffer.
#pragma once

#include "rule.h"

FS_NAMESPACE_BEGIN

// A rule with and without a term is two entries, since 0 * inf is not "no term".
#define FS_SGD_RULES(X)                                 \
  X(kSGD, SGDRule<Momentum::kNone, false>)              \
  X(kSGDDecay, SGDRule<Momentum::kNone, true>)          \
  X(kSGDMomentum, SGDRule<Momentum::kPlain, false>)     \
  X(kSGDMomentumDecay, SGDRule<Momentum::kPlain, true>) \
  X(kSGDNesterov, SGDRule<Momentum::kNesterov, false>)  \
  X(kSGDNesterovDecay, SGDRule<Momentum::kNesterov, true>)

struct SGD {
  static constexpr const char* kFamily = "sgd";
  enum Hyper : int { kLr, kMomentum, kDampening, kWeightDecay, kNesterov, kMaximize };
  static constexpr const char* kHyperparameters = "lr momentum dampening weight_decay nesterov maximize";
  static constexpr const char* kStates = "momentum_buffer";
  enum Rule : int { FS_SGD_RULES(FS_RULE_NAME) kRuleCount };

  static Rule choose(const double* hyper) {
    const bool decay = hyper[kWeightDecay] != 0.0;
    if (hyper[kMomentum] == 0.0) return decay ? kSGDDecay : kSGD;
    if (hyper[kNesterov] != 0.0) return decay ? kSGDNesterovDecay : kSGDNesterov;
    return decay ? kSGDMomentumDecay : kSGDMomentum;
  }
};

template <class A>
struct SGDScalars {
  A gain, weight_decay, keep, intake, look_ahead, lr;
};

enum class Momentum { kNone, kPlain, kNesterov };

template <Momentum kMomentum, bool kDecay>
struct SGDRule {
  static constexpr int kStates = kMomentum == Momentum::kNone ? 0 : 1;
  template <class A>
  using Scalars = SGDScalars<A>;

  // At the first update the buffer is new (zeros). torch then stores the gradient itself, without dampening; as it does
  // while a schedule has the momentum at zero.
  template <class Info>
  FS_HD static SGDScalars<double> prepare(const double* hyper, const Info& info) {
    const bool first = info.step == 1.0;
    const double momentum = hyper[SGD::kMomentum];
    SGDScalars<double> s;
    s.gain = hyper[SGD::kMaximize] != 0.0 ? -info.gain : info.gain;
    s.weight_decay = hyper[SGD::kWeightDecay];
    s.keep = first ? 0.0 : momentum;
    s.intake = first || momentum == 0.0 ? 1.0 : 1.0 - hyper[SGD::kDampening];
    s.look_ahead = momentum;
    s.lr = hyper[SGD::kLr];
    return s;
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
