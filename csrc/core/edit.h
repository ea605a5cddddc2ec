// SPDX-License-Identifier: Apache-2.0
// What a write to a scheduled number does to the steps after it: the twin of fusedsched/schedules/edit.py, which says
// it in words. Same names, same order of operations.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

enum EditKind : int32_t {
  kDiscard = 0,      // the next step overwrites it
  kScaleOrKeep = 1,  // it scales the distance from the pivot; where the schedule is at the pivot, it is added
  kScaleOrDrop = 2,  // as kScaleOrKeep, but where the schedule is at the pivot, it is dropped
  kWave = 3,         // it scales the wave until the next low point; at one it is added to the height of the new wave
  kHold = 4,         // it stays, to the bit
};

// How edits are continued at clocks below `end`.
struct EditRule {
  double end;
  double kind;
  double pivot;
  double low;            // of a wave: one of its low points
  double period;         // and the distance between two
  double gain_per_unit;  // how much a wave grows for each unit that was added at its low point
};

// A rate of pivot + gain * (value - pivot) + shift in place of `value`, at clocks below `until`.
struct Edit {
  double gain, shift, until;
};

FS_HD const EditRule& rule_at(const EditRule* rule, double clock) {
  while (clock >= rule->end) ++rule;
  return *rule;
}

FS_HD double apply(const Edit& edit, const EditRule& rule, double clock, double value) {
  if (clock >= edit.until || (edit.gain == 1.0 && edit.shift == 0.0)) return value;
  return rule.pivot + edit.gain * (value - rule.pivot) + edit.shift;
}

// After a write of `found` at a clock where the schedule has `value`. The numbers of a wave are whole: the remainder is
// exact.
FS_HD Edit edited(const Edit& edit, const EditRule& rule, double clock, double value, double found) {
  const double above = found - rule.pivot, height = value - rule.pivot;
  const int32_t kind = static_cast<int32_t>(rule.kind);
  if (kind == kDiscard) return edit;
  double until = rule.end;
  if (kind == kHold) return {0.0, above, until};
  if (kind == kWave) {
    const double since = clock - rule.low, passed = since - floor(since / rule.period) * rule.period;
    const double next = clock - passed + rule.period;
    if (next < until) until = next;
    if (passed == 0.0) return {1.0 + above * rule.gain_per_unit, 0.0, until};
  }
  if (height != 0.0) return {above / height, 0.0, until};
  if (kind != kScaleOrKeep) return edit;
  return {clock < edit.until ? edit.gain : 1.0, above, until};
}

FS_NAMESPACE_END
