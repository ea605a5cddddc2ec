// SPDX-License-Identifier: Apache-2.0
// Chooses the kernels at run time, so that one binary runs on every processor of its architecture.
#include "kernels.h"

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__)
extern const fs_cpu::Kernels fs_kernels_x86_64_v1, fs_kernels_x86_64_v3, fs_kernels_x86_64_v4;
#else
extern const fs_cpu::Kernels fs_kernels_generic;
#endif

namespace fs_cpu {

namespace {

#if defined(__x86_64__)
// The levels by their parts: GCC 11 does not know the names "x86-64-v3" and "x86-64-v4" here.
#define FS_HAS(feature) (__builtin_cpu_supports(feature) != 0)
bool has_v3() { return FS_HAS("avx2") && FS_HAS("fma") && FS_HAS("bmi") && FS_HAS("bmi2"); }
bool has_v4() {
  return has_v3() && FS_HAS("avx512f") && FS_HAS("avx512bw") && FS_HAS("avx512cd") && FS_HAS("avx512dq") &&
         FS_HAS("avx512vl");
}
#undef FS_HAS
#endif

const Kernels* candidate(int rank) {  // best first
#if defined(__x86_64__)
  __builtin_cpu_init();
  switch (rank) {
    case 0: return has_v4() ? &fs_kernels_x86_64_v4 : nullptr;
    case 1: return has_v3() ? &fs_kernels_x86_64_v3 : nullptr;
    default: return &fs_kernels_x86_64_v1;
  }
#else
  return rank == 2 ? &fs_kernels_generic : nullptr;
#endif
}

const Kernels& choose() {
  const char* wanted = std::getenv("FUSEDSCHED_ISA");
  const Kernels* best = nullptr;
  for (int rank = 0; rank < 3; ++rank) {
    const Kernels* k = candidate(rank);
    if (k == nullptr) continue;
    if (best == nullptr) best = k;
    if (wanted != nullptr && std::strcmp(k->isa, wanted) == 0) return *k;
  }
  return *best;
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace fs_cpu
