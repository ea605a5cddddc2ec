// SPDX-License-Identifier: Apache-2.0
// The list of rules and families. Launchers instantiate their loop for each rule; nothing else names its template.
#pragma once

#include "adam.h"
#include "array.h"
#include "lion.h"
#include "sgd.h"

FS_NAMESPACE_BEGIN

// X(name, type) of every rule; in this order they are numbered.
#define FS_RULES(X) FS_ADAM_RULES(X) FS_SGD_RULES(X) FS_LION_RULES(X)

// X(type) of every family, in the same order.
#define FS_FAMILIES(X) X(Adam) X(SGD) X(Lion)

enum Rule : uint8_t { FS_RULES(FS_RULE_NAME) kRules };

// Scalars travel as doubles, named by the rule that prepared them.
constexpr int kMaxScalars = 10;
constexpr int kMaxHyperparameters = 8;  // of a group

// The counters of an optimizer.
enum Clock : int { kUpdates, kSamples, kTokens, kSkipped, kClocks };

FS_NAMESPACE_END
