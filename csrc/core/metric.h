// SPDX-License-Identifier: Apache-2.0
// How a scheduler that follows a metric decides: ReduceLROnPlateau (torch) and GreedyLR (Hugging Face).
//
// A board is one flat float64 table: a Watch, then a Rate for each group, then the window of a running mean. It lies in
// device memory; fusedsched/lr_scheduler/boards.py writes and reads it; plateau.py and greedy.py there decide the same
// way on the host. The arithmetic is that of Python's floats, so both come to the same decision.
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

enum Comparison : int32_t { kMinRelative, kMinAbsolute, kMaxRelative, kMaxAbsolute };

enum Verdict : int32_t { kStay, kLower, kRaise, kStartOver };

// Counts are float64 as well: exact up to 2**53, and a patience may be infinite.
struct Watch {
  // What was asked for.
  double greedy;  // 0: only ever lowers
  double comparison, factor, threshold, patience, cooldown, warmup, eps;
  double window;     // metrics in the running mean; 0: none is taken
  double reset_start;
  double n_rates;
  int64_t clock;      // metrics handed in, in a SequentialLR its steps: the clock of the programs on the board
  double begin, end;  // it follows the metrics of clocks between these two, both exclusive

  // What is known.
  double best, bad, good, cooldown_counter, warmup_counter, lower_before_reset, epoch, sum, held;
  double next;       // where the window is written next
  double verdict;    // of the last metric
  uint32_t above, unused;  // rates above their minimum, while they are counted
};
constexpr int32_t kWatchWidth = 26, kRateWidth = 6;

// The rate of one group, wherever the update reads it.
struct Rate {
  void* at;
  int64_t dtype;  // fs::DType of what lies there
  double least, most;
  double initial;  // what GreedyLR starts over from
  double last;     // as the last verdict left it
};

static_assert(sizeof(Watch) == kWatchWidth * sizeof(double) && sizeof(Rate) == kRateWidth * sizeof(double));

// A NaN is never better, as all comparisons with it are false.
FS_HD bool is_better(const Watch& w, double value) {
  switch (static_cast<int32_t>(w.comparison)) {
    case kMinRelative: return value < w.best * (1.0 - w.threshold);
    case kMinAbsolute: return value < w.best - w.threshold;
    case kMaxRelative: return value > w.best * (w.threshold + 1.0);
    default: return value > w.best + w.threshold;
  }
}

// The mean of the last metrics. The sum is carried along, not formed anew: that is its definition, roundings included.
FS_HD double running_mean(Watch& w, double* window, double value) {
  const int64_t at = static_cast<int64_t>(w.next);
  w.sum += value;
  if (w.held < w.window) {
    w.held += 1.0;
  } else {
    w.sum -= window[at];
  }
  window[at] = value;
  w.next = w.next + 1.0 < w.window ? w.next + 1.0 : 0.0;
  return w.sum / w.held;
}

FS_HD Verdict follow_plateau(Watch& w, double value) {
  if (is_better(w, value)) {
    w.best = value;
    w.bad = 0.0;
  } else {
    w.bad += 1.0;
  }
  if (w.cooldown_counter > 0.0) {
    w.cooldown_counter -= 1.0;
    w.bad = 0.0;
  }
  if (!(w.bad > w.patience)) return kStay;
  w.cooldown_counter = w.cooldown;
  w.bad = 0.0;
  return kLower;
}

FS_HD Verdict follow_greedily(Watch& w, double value) {
  if (w.cooldown_counter > 0.0 || w.warmup_counter > 0.0) {
    double& waits = w.cooldown_counter > 0.0 ? w.cooldown_counter : w.warmup_counter;
    waits -= 1.0;
    w.bad = w.good = 0.0;
    return kStay;
  }
  if (is_better(w, value)) {
    w.best = value;
    w.bad = 0.0;
    w.good += 1.0;
  } else {
    w.bad += 1.0;
    w.good = 0.0;
  }
  if (w.good > w.patience) {
    w.warmup_counter = w.warmup;
    w.good = 0.0;
    w.lower_before_reset = w.reset_start;
    return kRaise;
  }
  if (!(w.bad > w.patience)) return kStay;
  w.cooldown_counter = w.cooldown;
  w.bad = 0.0;
  return kLower;
}

// Another step. Whether its metric is to be looked at.
FS_HD bool is_due(Watch& w) {
  w.clock += 1;
  const double clock = static_cast<double>(w.clock);
  return w.begin < clock && clock < w.end;
}

// Takes note of a metric. What comes back is to be done to all rates.
FS_HD Verdict observe(Watch& w, double* window, double value) {
  if (w.window > 0.0) value = running_mean(w, window, value);
  w.epoch += 1.0;
  return w.greedy != 0.0 ? follow_greedily(w, value) : follow_plateau(w, value);
}

// A rate after a verdict. It stays where the change is not more than eps.
FS_HD double rate_after(const Watch& w, const Rate& rate, Verdict verdict, double old) {
  if (verdict == kStartOver) return rate.initial;
  if (verdict == kLower) {
    const double lower = old * w.factor;
    const double fresh = rate.least > lower ? rate.least : lower;
    return old - fresh > w.eps ? fresh : old;
  }
  if (verdict == kRaise) {
    const double higher = old / w.factor;
    const double fresh = rate.most < higher ? rate.most : higher;
    return fresh - old > w.eps ? fresh : old;
  }
  return old;
}

// Once the rates were lowered and none is above its minimum: whether to start over. The cooldown goes on.
FS_HD bool starts_over(Watch& w) {
  if (w.greedy == 0.0) return false;
  w.lower_before_reset -= 1.0;
  if (w.lower_before_reset > 0.0) return false;
  const int32_t comparison = static_cast<int32_t>(w.comparison);
  const double infinity = 1.0 / 0.0;
  w.best = comparison == kMinRelative || comparison == kMinAbsolute ? infinity : -infinity;
  w.bad = w.good = w.warmup_counter = w.sum = w.held = w.next = 0.0;
  w.lower_before_reset = w.reset_start;
  return true;
}

FS_NAMESPACE_END
