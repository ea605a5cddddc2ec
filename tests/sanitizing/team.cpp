// SPDX-License-Identifier: Apache-2.0
// A program without Python and OpenMP of what decides about threads, for ThreadSanitizer: several threads ask and tell
// one Team in turns, as steps of one optimizer do, each has a Team of its own beside it, and two of them fork.
#include "plan/team.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace {

constexpr int kThreads = 4, kRounds = 20000, kForks = 5;

fs::Team shared_team;
std::mutex turn;
long shared_updates = 0;

void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::_Exit(1);
}

void work(int seed) {
  fs::Team own;
  for (int i = 0; i < kRounds; ++i) {
    const double estimate = 1e4 * ((i * 7 + seed) % 40);
    require(!fs::forked_from_threads(), "a thread of the first process believes that it was forked");
    own.took(2.0 * estimate + 1.0, estimate + 1.0, own.shares(estimate));
    const std::lock_guard<std::mutex> held(turn);
    const bool shared = shared_team.shares(estimate);
    shared_updates += shared;
    shared_team.took((i % 9 == 0 ? 9.0 : 1.0) * estimate + 1.0, estimate + 1.0, shared);
  }
}

void fork_beside() {
  for (int i = 0; i < kForks; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      fs::Team team;
      std::_Exit(fs::forked_from_threads() && !team.shares(1e9) ? 0 : 1);
    }
    int status = 1;
    require(waitpid(child, &status, 0) == child && status == 0, "a child would call threads that it does not have");
  }
}

}  // namespace

int main() {
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  threads.emplace_back(fork_beside);
  threads.emplace_back(fork_beside);
  for (std::thread& thread : threads) thread.join();
  require(shared_updates > 0, "no update was shared");
  std::puts("done");
}
