// SPDX-License-Identifier: Apache-2.0
// Runs a grid: the threads of a block take turns from barrier to barrier, and a few blocks take turns among each other,
// in shuffled orders. What a block shares holds garbage when it starts.
#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_runtime.h"
#include "machine.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace {

constexpr size_t kSharedBytes = 48 * 1024, kStackBytes = 512 * 1024;
constexpr size_t kResident = 3;  // blocks under way at a time

}  // namespace

namespace fs_cuda {

uint4 shared_memory[kSharedBytes / sizeof(uint4)];

}  // namespace fs_cuda

namespace {

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* fake_stack = nullptr;
  int barriers = 0;
  bool done = false;
};

struct Block {
  uint32_t number;
  std::vector<Fiber*> threads;
  std::vector<char> shared;
};

std::mt19937 shuffler(1);
ucontext_t scheduler;
Fiber* current = nullptr;
const std::function<void()>* body = nullptr;
std::vector<std::unique_ptr<Fiber>> spare;

#if defined(__SANITIZE_ADDRESS__)
const void* scheduler_stack;
size_t scheduler_size;

void enter(Fiber& fiber) {
  void* mine;
  __sanitizer_start_switch_fiber(&mine, fiber.stack.get(), kStackBytes);
  swapcontext(&scheduler, &fiber.context);
  __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
}
void arrived(Fiber& fiber) { __sanitizer_finish_switch_fiber(fiber.fake_stack, &scheduler_stack, &scheduler_size); }
void leave(Fiber& fiber) {
  __sanitizer_start_switch_fiber(fiber.done ? nullptr : &fiber.fake_stack, scheduler_stack, scheduler_size);
  swapcontext(&fiber.context, &scheduler);
  arrived(fiber);
}
void limit_shared(size_t bytes) {
  char* start = reinterpret_cast<char*>(fs_cuda::shared_memory);
  __asan_unpoison_memory_region(start, kSharedBytes);
  __asan_poison_memory_region(start + bytes, kSharedBytes - bytes);
}
#else
void enter(Fiber& fiber) { swapcontext(&scheduler, &fiber.context); }
void arrived(Fiber&) {}
void leave(Fiber& fiber) { swapcontext(&fiber.context, &scheduler); }
void limit_shared(size_t) {}
#endif

void thread_main() {
  Fiber& fiber = *current;
  arrived(fiber);
  (*body)();
  fiber.done = true;
  leave(fiber);
}

Fiber* fresh_fiber() {
  if (spare.empty()) spare.push_back(std::make_unique<Fiber>());
  Fiber* fiber = spare.back().release();
  spare.pop_back();
  fiber->done = false;
  fiber->barriers = 0;
  fiber->fake_stack = nullptr;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  makecontext(&fiber->context, thread_main, 0);
  return fiber;
}

// Lets every thread go on to the next barrier, or to its end. False if they disagree about which it is.
bool go_on(Block& block) {
  blockIdx = {block.number, 0, 0};
  std::memcpy(fs_cuda::shared_memory, block.shared.data(), block.shared.size());
  const size_t n = block.threads.size(), first = shuffler() % n;
  size_t done = 0;
  for (size_t turn = 0; turn < n; ++turn) {
    const size_t thread = (first + turn) % n;
    threadIdx = {static_cast<uint32_t>(thread), 0, 0};
    current = block.threads[thread];
    enter(*current);
    done += current->done;
  }
  std::memcpy(block.shared.data(), fs_cuda::shared_memory, block.shared.size());
  return done == 0 || done == n;
}

void retire(Block& block) {
  for (Fiber* fiber : block.threads) spare.emplace_back(fiber);
}

}  // namespace

void emulation::barrier() {
  Fiber& fiber = *current;
  const int nth = ++fiber.barriers;
  if (broken != kFourthBarrierMissing || nth != 4) leave(fiber);
}

void emulation::seed(uint32_t seed) { shuffler.seed(seed); }

cudaError_t emulation::run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread) {
  static std::mutex one_grid_at_a_time;
  const std::lock_guard lock(one_grid_at_a_time);
  if (grid.x == 0 || block.x == 0 || block.x > 1024 || shared_bytes > kSharedBytes) return cudaErrorInvalidConfiguration;
  body = &thread;
  gridDim = grid;
  blockDim = block;
  limit_shared(shared_bytes);
  std::vector<uint32_t> waiting(grid.x);
  std::iota(waiting.begin(), waiting.end(), 0u);
  std::shuffle(waiting.begin(), waiting.end(), shuffler);
  std::vector<Block> resident;
  bool agreed = true;
  while (agreed && (!waiting.empty() || !resident.empty())) {
    while (resident.size() < kResident && !waiting.empty()) {
      Block fresh{waiting.back(), {}, std::vector<char>(shared_bytes, '\xff')};  // NaN, -1, true
      for (uint32_t i = 0; i < block.x; ++i) fresh.threads.push_back(fresh_fiber());
      resident.push_back(std::move(fresh));
      waiting.pop_back();
    }
    const size_t chosen = shuffler() % resident.size();
    agreed = go_on(resident[chosen]);
    if (!agreed || resident[chosen].threads[0]->done) {
      retire(resident[chosen]);
      resident.erase(resident.begin() + chosen);
    }
  }
  for (Block& left : resident) retire(left);
  limit_shared(kSharedBytes);
  return agreed ? cudaSuccess : cudaErrorLaunchFailure;
}
