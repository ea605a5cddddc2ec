// SPDX-License-Identifier: Apache-2.0
// The ceiling of an AdamW step: the loop of the extension with the same loads and stores, but neither square root nor
// division. What it takes is what the memory takes.
#include <algorithm>
#include <cstdint>

#include <omp.h>

#include "core/convert.h"

namespace {

constexpr int64_t kUnit = 64;  // elements; threads share no cache line

template <class T>
void update(int64_t n, T* __restrict__ param, const T* __restrict__ grad, T* __restrict__ first,
            T* __restrict__ second) {
  const float keep = 0.99999f, towards_grad = 0.1f, beta2 = 0.999f, rest = 0.001f, step_size = 1e-3f, eps = 1e-8f;
  for (int64_t i = 0; i < n; ++i) {
    float p = fs::to_compute(param[i]), m = fs::to_compute(first[i]), v = fs::to_compute(second[i]);
    const float g = fs::to_compute(grad[i]);
    p *= keep;
    m += towards_grad * (g - m);
    v = beta2 * v + rest * g * g;
    p -= step_size * m * (v + eps);
    fs::from_compute(m, first[i]);
    fs::from_compute(v, second[i]);
    fs::from_compute(p, param[i]);
  }
}

// One parallel region over all tensors. `ends`: running sum of the tensors' units.
template <class T>
void run(int64_t tensors, void** params, void** grads, void** firsts, void** seconds, const int64_t* numels,
         const int64_t* ends) {
#pragma omp parallel
  {
    const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num(), units = ends[tensors - 1];
    int64_t at = units * thread / threads;
    const int64_t stop = units * (thread + 1) / threads;
    for (int64_t t = std::upper_bound(ends, ends + tensors, at) - ends; at < stop; ++t) {
      const int64_t base = t == 0 ? 0 : ends[t - 1], last = std::min(stop, ends[t]), begin = (at - base) * kUnit;
      update(std::min(numels[t], (last - base) * kUnit) - begin, static_cast<T*>(params[t]) + begin,
             static_cast<const T*>(grads[t]) + begin, static_cast<T*>(firsts[t]) + begin,
             static_cast<T*>(seconds[t]) + begin);
      at = last;
    }
  }
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int64_t ceiling_unit() { return kUnit; }

EXPORT void ceiling_float32(int64_t tensors, void** params, void** grads, void** firsts, void** seconds,
                            const int64_t* numels, const int64_t* ends) {
  run<float>(tensors, params, grads, firsts, seconds, numels, ends);
}

EXPORT void ceiling_bfloat16(int64_t tensors, void** params, void** grads, void** firsts, void** seconds,
                             const int64_t* numels, const int64_t* ends) {
  run<fs::BFloat16>(tensors, params, grads, firsts, seconds, numels, ends);
}
