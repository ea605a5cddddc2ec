// SPDX-License-Identifier: Apache-2.0
// The list of rules. Launchers instantiate their loop for each entry; nothing else names a rule's template.
#pragma once

#include "adam.h"
#include "sgd.h"

FS_NAMESPACE_BEGIN

// FS_RULES(X): X(name, type). A rule with and without a term is two entries, since 0 * inf is not "no term".
#define FS_RULES(X)                                    \
  X(kAdamW, AdamRule<false, false>)                    \
  X(kAdamWAmsgrad, AdamRule<false, true>)              \
  X(kAdamCoupled, AdamRule<true, false>)               \
  X(kAdamCoupledAmsgrad, AdamRule<true, true>)         \
  X(kSGD, SGDRule<Momentum::kNone, false>)             \
  X(kSGDDecay, SGDRule<Momentum::kNone, true>)         \
  X(kSGDMomentum, SGDRule<Momentum::kPlain, false>)    \
  X(kSGDMomentumDecay, SGDRule<Momentum::kPlain, true>) \
  X(kSGDNesterov, SGDRule<Momentum::kNesterov, false>) \
  X(kSGDNesterovDecay, SGDRule<Momentum::kNesterov, true>)

enum Rule : uint8_t {
#define FS_ENUM(name, ...) name,
  FS_RULES(FS_ENUM)
#undef FS_ENUM
  kRules
};

// Scalars travel as doubles, named by the rule that prepared them.
constexpr int kMaxScalars = 10;
constexpr int kMaxSlots = 8;

// The counters of an optimizer.
enum Clock : int { kUpdates, kSamples, kTokens, kSkipped, kClocks };
constexpr int kMaxStates = 3;

FS_NAMESPACE_END
