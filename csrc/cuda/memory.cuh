// SPDX-License-Identifier: Apache-2.0
// From memory to the numbers that are computed with, and back. Loads are kept apart from conversions, so that all
// arrays' loads are under way before the first one is waited for.
#pragma once

#include <cuda_runtime.h>

#include "../core/convert.h"
#include "launch.h"

namespace fs_cuda {

using fs::BFloat16, fs::Float16;

// Up to 16 bytes as they lie in memory.
struct Raw {
  uint32_t words[4];
};

// In PTX, since the compiler cannot know of an address from a table that it is one of global memory, and splits vectors
// where it is told. The statements are volatile, which keeps their order, and name no memory that they change: nothing
// in a kernel reads in C++ what they write, and a clobber would make the compiler load the tables again.
template <int kBytes>
__device__ __forceinline__ Raw load_bytes(const void* from) {
  Raw raw{};
#if defined(__CUDA_ARCH__)
  uint32_t(&w)[4] = raw.words;
  const size_t address = __cvta_generic_to_global(from);
  if constexpr (kBytes == 16) {
    asm volatile("ld.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                 : "l"(address));
  } else if constexpr (kBytes == 8) {
    asm volatile("ld.global.v2.b32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(address));
  } else if constexpr (kBytes == 4) {
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(w[0]) : "l"(address));
  } else {
    asm volatile("ld.global.u16 %0, [%1];" : "=r"(w[0]) : "l"(address));
  }
#else
  __builtin_memcpy(raw.words, __builtin_assume_aligned(from, kBytes), kBytes);
#endif
  return raw;
}

template <int kBytes>
__device__ __forceinline__ void store_bytes(void* to, const Raw& raw) {
#if defined(__CUDA_ARCH__)
  const uint32_t(&w)[4] = raw.words;
  const size_t address = __cvta_generic_to_global(to);
  if constexpr (kBytes == 16) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]));
  } else if constexpr (kBytes == 8) {
    asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(address), "r"(w[0]), "r"(w[1]));
  } else if constexpr (kBytes == 4) {
    asm volatile("st.global.b32 [%0], %1;" ::"l"(address), "r"(w[0]));
  } else {
    asm volatile("st.global.u16 [%0], %1;" ::"l"(address), "r"(w[0]));
  }
#else
  __builtin_memcpy(__builtin_assume_aligned(to, kBytes), raw.words, kBytes);
#endif
}

// Asks for the 128 bytes around an address, and does not wait for them.
__device__ __forceinline__ void prefetch(const void* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
#endif
}

// Number k of a vector of T.
template <class T>
__device__ __forceinline__ T number_of(const Raw& raw, int k) {
  if constexpr (sizeof(T) == 8) {
    const uint64_t bits = raw.words[2 * k] | static_cast<uint64_t>(raw.words[2 * k + 1]) << 32;
    T number;
    __builtin_memcpy(&number, &bits, sizeof number);
    return number;
  } else if constexpr (sizeof(T) == 4) {
    return fs::float_of(raw.words[k]);
  } else {
    return {static_cast<uint16_t>(raw.words[k / 2] >> (k % 2 * 16))};
  }
}

// Two neighbours of 16 bits in one word. The processor rounds two at a time; core/convert.h rounds as it does, but for
// the bits of a NaN.
__device__ __forceinline__ uint32_t rounded_pair(BFloat16, float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return fs::pair_of(low, high);
#endif
}

__device__ __forceinline__ uint32_t rounded_pair(Float16, float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
#else
  Float16 a, b;
  fs::from_compute(low, a);
  fs::from_compute(high, b);
  return a.bits | static_cast<uint32_t>(b.bits) << 16;
#endif
}

template <class T>
__device__ __forceinline__ auto widened(T x) {
  return fs::to_compute(x);
}

#if defined(__CUDA_ARCH__)
template <>
__device__ __forceinline__ auto widened(Float16 x) {
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
}
#endif

// kCount neighbours of type T from number `first` of a vector on, computed with in A; and back into their places.
template <class T, int kCount, class A>
__device__ __forceinline__ void unpack(const Raw& raw, int first, A (&numbers)[kCount]) {
#pragma unroll
  for (int k = 0; k < kCount; ++k) numbers[k] = static_cast<A>(widened(number_of<T>(raw, first + k)));
}

template <class T, int kCount, class A>
__device__ __forceinline__ void pack(Raw& raw, int first, const A (&numbers)[kCount]) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int k = 0; k < kCount; k += 2) {
      const A high = k + 1 < kCount ? numbers[k + 1] : A(0);
      raw.words[(first + k) / 2] = rounded_pair(T{}, static_cast<float>(numbers[k]), static_cast<float>(high));
    }
  } else {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const T number = static_cast<T>(numbers[k]);
      if constexpr (sizeof(T) == 8) {
        uint64_t bits;
        __builtin_memcpy(&bits, &number, sizeof bits);
        raw.words[2 * (first + k)] = static_cast<uint32_t>(bits);
        raw.words[2 * (first + k) + 1] = static_cast<uint32_t>(bits >> 32);
      } else {
        raw.words[first + k] = fs::bits_of(number);
      }
    }
  }
}

// How the arrays of a launch are stored: all as T ...
template <class T>
struct Uniform {
  static constexpr int kBytes = sizeof(T);
  static constexpr bool kMixed = false;
  // Numbers that are converted at a time: the fewer, the fewer registers they take.
  template <int kWidth>
  static constexpr int kAtOnce = kBytes == 2 && kWidth > 1 ? 2 : 1;

  __device__ __forceinline__ static void* at(void* array, DType, int64_t i) { return static_cast<T*>(array) + i; }
  template <int kWidth>
  __device__ __forceinline__ static Raw load(const void* array, DType, int32_t i) {
    return load_bytes<kWidth * kBytes>(static_cast<const T*>(array) + i);
  }
  template <int kWidth>
  __device__ __forceinline__ static void store(void* array, DType, int32_t i, const Raw& raw) {
    store_bytes<kWidth * kBytes>(static_cast<T*>(array) + i, raw);
  }
  template <int kCount, class A>
  __device__ __forceinline__ static void open(DType, const Raw& raw, int first, A (&numbers)[kCount]) {
    unpack<T>(raw, first, numbers);
  }
  template <int kCount, class A>
  __device__ __forceinline__ static void close(DType, Raw& raw, int first, const A (&numbers)[kCount]) {
    pack<T>(raw, first, numbers);
  }
};

// ... or each in its own type, none wider than Widest. The branches are the same for all threads.
template <class Widest>
struct Mixed {
  static constexpr int kBytes = sizeof(Widest);
  static constexpr bool kMixed = true;
  template <int kWidth>
  static constexpr int kAtOnce = kWidth;  // the fewer times, the fewer branches

  __device__ __forceinline__ static void* at(void* array, DType dtype, int64_t i) {
    const int64_t bytes = dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2;
    return static_cast<char*>(array) + i * bytes;
  }
  template <int kWidth>
  __device__ __forceinline__ static Raw load(const void* array, DType dtype, int32_t i) {
    if (dtype == DType::kFloat32) return Uniform<float>::load<kWidth>(array, dtype, i);
    if constexpr (kBytes == 8) {
      if (dtype == DType::kFloat64) return Uniform<double>::load<kWidth>(array, dtype, i);
    }
    return Uniform<BFloat16>::load<kWidth>(array, dtype, i);  // float16 too: 16 bits, whatever they mean
  }
  template <int kWidth>
  __device__ __forceinline__ static void store(void* array, DType dtype, int32_t i, const Raw& raw) {
    if (dtype == DType::kFloat32) return Uniform<float>::store<kWidth>(array, dtype, i, raw);
    if constexpr (kBytes == 8) {
      if (dtype == DType::kFloat64) return Uniform<double>::store<kWidth>(array, dtype, i, raw);
    }
    Uniform<BFloat16>::store<kWidth>(array, dtype, i, raw);
  }
  template <int kCount, class A>
  __device__ __forceinline__ static void open(DType dtype, const Raw& raw, int first, A (&numbers)[kCount]) {
    switch (dtype) {
      case DType::kFloat32: return unpack<float>(raw, first, numbers);
      case DType::kBFloat16: return unpack<BFloat16>(raw, first, numbers);
      case DType::kFloat16: return unpack<Float16>(raw, first, numbers);
      case DType::kFloat64:
        if constexpr (kBytes == 8) unpack<double>(raw, first, numbers);
    }
  }
  template <int kCount, class A>
  __device__ __forceinline__ static void close(DType dtype, Raw& raw, int first, const A (&numbers)[kCount]) {
    switch (dtype) {
      case DType::kFloat32: return pack<float>(raw, first, numbers);
      case DType::kBFloat16: return pack<BFloat16>(raw, first, numbers);
      case DType::kFloat16: return pack<Float16>(raw, first, numbers);
      case DType::kFloat64:
        if constexpr (kBytes == 8) pack<double>(raw, first, numbers);
    }
  }
};

}  // namespace fs_cuda
