// SPDX-License-Identifier: Apache-2.0
#include "plan/team.h"

#include <pthread.h>
#include <sys/stat.h>

#include <algorithm>

namespace fs {

namespace {

thread_local bool several = false;  // threads, when a fork by this one began; two may fork at once
bool forked = false;

// The folder has one link for each thread, beside its own two. Where there is none: as if there were several.
void before_fork() {
  struct stat tasks;
  several = stat("/proc/self/task", &tasks) != 0 || tasks.st_nlink != 3;
}

void in_child() { forked |= several; }

[[maybe_unused]] const int registered = pthread_atfork(before_fork, nullptr, in_child);

constexpr double kSlow = 1.25;  // shared, so much longer than alone: disappointing
constexpr int kLongestPause = 8;

}  // namespace

bool forked_from_threads() { return forked; }

bool Team::shares(double estimate) {
  if (forked || estimate < kShared) return false;
  if (pause_ == 0) return true;
  --pause_;
  return false;
}

// One slow update may be chance. After two in a row there is a pause, twice as long each time.
void Team::took(double nanoseconds, double estimate, bool shared) {
  const double ratio = nanoseconds / estimate;
  if (!shared) {
    alone_ += 0.25 * (std::min(ratio, 2.0 * alone_) - alone_);  // not by one that was interrupted
  } else if (ratio <= kSlow * alone_) {
    disappointments_ = 0;
  } else if (++disappointments_ > 1) {
    pause_ = 1 << std::min(disappointments_, kLongestPause);
  }
}

}  // namespace fs
