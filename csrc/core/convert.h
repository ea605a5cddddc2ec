// SPDX-License-Identifier: Apache-2.0
// Numbers of 16 bits to float32 and back, without branches, so that the compiler vectorises the loops that use them.
// Rounding is to nearest, ties to even. Exact for subnormals too, also when the processor flushes them.
#pragma once

#include <cstdint>

#include "platform.h"

FS_NAMESPACE_BEGIN

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

template <class T>
inline constexpr bool kPairs = false;  // whether two neighbours are updated at a time
template <>
inline constexpr bool kPairs<BFloat16> = true;

FS_HD uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }
FS_HD float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }

FS_HD float to_compute(BFloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

// Two neighbours in one 32-bit word. Widened in place, by a shift and a mask, they need no shuffle, and half the shifts;
// on AVX-512 shifts share a port with division and square root, which the update already keeps busy.
FS_HD float low_of(uint32_t pair) { return float_of(pair << 16); }
FS_HD float high_of(uint32_t pair) { return float_of(pair & 0xffff0000u); }

FS_HD float to_compute(Float16 x) {
  const uint32_t magnitude = x.bits & 0x7fffu;
  const uint32_t rebias = 112u << 23;  // exponent bias 15 to 127
  const uint32_t normal = (magnitude << 13) + rebias + (magnitude >= 0x7c00u ? rebias : 0u);
  const float subnormal = float_of(0x3f000000u | magnitude) - 0.5f;  // 0.5 + n * 2**-24
  const uint32_t value = magnitude < 0x400u ? bits_of(subnormal) : normal;
  return float_of(value | (static_cast<uint32_t>(x.bits & 0x8000u) << 16));
}

// The upper half is the rounded number, the lower half is left over. A tie goes to even: up if the last kept bit is set.
FS_HD uint32_t round_to_bfloat16(float x) {
  const uint32_t u = bits_of(x);
#if defined(__AVX512F__)
  const uint32_t half = (u & 0x10000u) != 0u ? 0x8000u : 0x7fffu;  // a mask; shifts wait for the divider's port
#else
  const uint32_t half = 0x7fffu + ((u >> 16) & 1u);
#endif
  return x != x ? 0x7fc00000u : u + half;
}

FS_HD void from_compute(float x, BFloat16& out) { out.bits = static_cast<uint16_t>(round_to_bfloat16(x) >> 16); }

FS_HD uint32_t pair_of(float low, float high) {
  return (round_to_bfloat16(low) >> 16) | (round_to_bfloat16(high) & 0xffff0000u);
}

FS_HD void from_compute(float x, Float16& out) {
  const uint32_t u = bits_of(x) & 0x7fffffffu;
  const uint32_t sign = (bits_of(x) >> 16) & 0x8000u;
  const uint32_t normal = (u + 0xfffu + ((u >> 13) & 1u) - (112u << 23)) >> 13;
  const uint32_t subnormal = bits_of(float_of(u) + 0.5f) - 0x3f000000u;  // the addition rounds at 2**-24
  const uint32_t finite = u < 0x38800000u ? subnormal : normal;
  const uint32_t special = u > 0x7f800000u ? 0x7e00u : 0x7c00u;
  out.bits = static_cast<uint16_t>((u >= 0x47800000u ? special : finite) | sign);
}

// Between float32 and float64, for a parameter whose state is kept in the other one.
FS_HD float to_compute(float x) { return x; }
FS_HD double to_compute(double x) { return x; }
FS_HD void from_compute(float x, double& out) { out = x; }
FS_HD void from_compute(double x, float& out) { out = static_cast<float>(x); }
FS_HD void from_compute(double x, double& out) { out = x; }
FS_HD void from_compute(float x, float& out) { out = x; }
template <class T>
FS_HD void from_compute(double x, T& out) { from_compute(static_cast<float>(x), out); }

FS_NAMESPACE_END
