// SPDX-License-Identifier: Apache-2.0
// Whether an update is shared out among threads.
#pragma once

namespace fs {

// Nanoseconds of one thread below which a second one costs more than it saves, and those that each gets at least.
constexpr double kShared = 50e3, kShare = 25e3;

// Whether this process is the child of one that had other threads. A fork copies none of them, so OpenMP, which still
// counts on its own, would wait for them for ever.
bool forked_from_threads();

// Judges by the times that updates take whether other threads come when they are called. Where another process keeps
// their processor busy, each update waits for a time slice: milliseconds for a share of microseconds.
class Team {
 public:
  // Whether the next update, for which one thread needs about so many nanoseconds, is to be shared out.
  bool shares(double estimate);
  // Takes in how long one of those took that shares() was asked about.
  void took(double nanoseconds, double estimate, bool shared);

 private:
  double alone_ = 2.4;   // nanoseconds of one thread for each of the estimate: by the last updates that were not shared
  int disappointments_ = 0, pause_ = 0;
};

}  // namespace fs
