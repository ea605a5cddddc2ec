// SPDX-License-Identifier: Apache-2.0
// How metric schedulers decide: ReduceLROnPlateau (torch) and GreedyLR (Hugging Face).
//
// The state is one flat float64 table: a MetricState, then a MetricTarget for each group, then the window of a running
// mean. It is in device memory. fusedsched/lr_scheduler/metric_state.py writes and reads it. plateau.py and greedy.py
// there decide the same way on the host: the arithmetic is that of Python's floats, so both decide alike to the bit.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

enum Comparison : int32_t { kMinRelative, kMinAbsolute, kMaxRelative, kMaxAbsolute };

enum Verdict : int32_t { kStay, kLower, kRaise, kStartOver };

// Counts are float64 as well: exact up to 2**53, and a patience may be infinite.
struct MetricState {
  // The options.
  double greedy;  // 0: only ever lowers
  double comparison, factor, threshold, patience, cooldown, warmup, eps;
  double window;     // metrics in the running mean; 0: none is taken
  double reset_start;
  double n_targets;
  int64_t clock;      // steps of the scheduler, or of the SequentialLR that it is a member of
  double begin, end;  // the active interval: metrics of clocks between these two, both exclusive, are used

  // The progress.
  double best, bad, good, cooldown_counter, warmup_counter, lower_before_reset, epoch, sum, held;
  double next;       // where the window is written next
  double verdict;    // of the last metric
  uint32_t above, unused;  // learning rates above their minimum, while they are counted
};
constexpr int32_t kMetricStateWidth = 26, kMetricTargetWidth = 6;

// The learning rate of one group: a place of the table of hyperparameters, or a tensor of the user.
struct MetricTarget {
  void* at;
  int64_t dtype;  // fs::DType of what lies there
  double least, most;
  double initial;  // what GreedyLR starts over from
  double last;     // the value after the last verdict
};

static_assert(sizeof(MetricState) == kMetricStateWidth * sizeof(double));
static_assert(sizeof(MetricTarget) == kMetricTargetWidth * sizeof(double));

// A NaN is never better, as all comparisons with it are false.
FS_HD bool is_better(const MetricState& state, double value) {
  switch (static_cast<int32_t>(state.comparison)) {
    case kMinRelative: return value < state.best * (1.0 - state.threshold);
    case kMinAbsolute: return value < state.best - state.threshold;
    case kMaxRelative: return value > state.best * (state.threshold + 1.0);
    default: return value > state.best + state.threshold;
  }
}

// The mean of the last metrics. The sum is updated, not computed anew: that is its definition, roundings included.
FS_HD double running_mean(MetricState& state, double* window, double value) {
  const int64_t at = static_cast<int64_t>(state.next);
  state.sum += value;
  if (state.held < state.window) {
    state.held += 1.0;
  } else {
    state.sum -= window[at];
  }
  window[at] = value;
  state.next = state.next + 1.0 < state.window ? state.next + 1.0 : 0.0;
  return state.sum / state.held;
}

FS_HD Verdict decide_plateau(MetricState& state, double value) {
  if (is_better(state, value)) {
    state.best = value;
    state.bad = 0.0;
  } else {
    state.bad += 1.0;
  }
  if (state.cooldown_counter > 0.0) {
    state.cooldown_counter -= 1.0;
    state.bad = 0.0;
  }
  if (!(state.bad > state.patience)) return kStay;
  state.cooldown_counter = state.cooldown;
  state.bad = 0.0;
  return kLower;
}

FS_HD Verdict decide_greedy(MetricState& state, double value) {
  if (state.cooldown_counter > 0.0 || state.warmup_counter > 0.0) {
    double& waits = state.cooldown_counter > 0.0 ? state.cooldown_counter : state.warmup_counter;
    waits -= 1.0;
    state.bad = state.good = 0.0;
    return kStay;
  }
  if (is_better(state, value)) {
    state.best = value;
    state.bad = 0.0;
    state.good += 1.0;
  } else {
    state.bad += 1.0;
    state.good = 0.0;
  }
  if (state.good > state.patience) {
    state.warmup_counter = state.warmup;
    state.good = 0.0;
    state.lower_before_reset = state.reset_start;
    return kRaise;
  }
  if (!(state.bad > state.patience)) return kStay;
  state.cooldown_counter = state.cooldown;
  state.bad = 0.0;
  return kLower;
}

// Advances the clock. Whether the metric of this step is used.
FS_HD bool is_due(MetricState& state) {
  state.clock += 1;
  const double clock = static_cast<double>(state.clock);
  return state.begin < clock && clock < state.end;
}

// Updates the progress by a metric. The verdict holds for all learning rates.
FS_HD Verdict observe(MetricState& state, double* window, double value) {
  if (state.window > 0.0) value = running_mean(state, window, value);
  state.epoch += 1.0;
  return state.greedy != 0.0 ? decide_greedy(state, value) : decide_plateau(state, value);
}

// A learning rate after a verdict. It stays where the change is not more than eps.
FS_HD double rate_after(const MetricState& state, const MetricTarget& target, Verdict verdict, double old) {
  if (verdict == kStartOver) return target.initial;
  if (verdict == kLower) {
    const double lower = old * state.factor;
    const double fresh = target.least > lower ? target.least : lower;
    return old - fresh > state.eps ? fresh : old;
  }
  if (verdict == kRaise) {
    const double higher = old / state.factor;
    const double fresh = target.most < higher ? target.most : higher;
    return fresh - old > state.eps ? fresh : old;
  }
  return old;
}

// After a reduction that leaves no learning rate above its minimum: whether to start over. The cooldown continues.
FS_HD bool starts_over(MetricState& state) {
  if (state.greedy == 0.0) return false;
  state.lower_before_reset -= 1.0;
  if (state.lower_before_reset > 0.0) return false;
  const int32_t comparison = static_cast<int32_t>(state.comparison);
  const double infinity = 1.0 / 0.0;
  state.best = comparison == kMinRelative || comparison == kMinAbsolute ? infinity : -infinity;
  state.bad = state.good = state.warmup_counter = state.sum = state.held = state.next = 0.0;
  state.lower_before_reset = state.reset_start;
  return true;
}

FS_NAMESPACE_END
