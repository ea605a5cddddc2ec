// SPDX-License-Identifier: Apache-2.0
// The sine of the cosine schedules, from additions and multiplications alone: the digits are the same on the CPU, on
// every GPU and in Triton (triton_kernels/maths.py), and a device needs no table in memory for it. A maths library's sin
// and sinpi differ by an ulp or two, which their square doubles.
//
// The error terms need code without contraction to fma, as all schedules do (schedule.h).
#pragma once

#include "platform.h"

FS_NAMESPACE_BEGIN

// sin(x) for 0 <= x <= pi/4: its series.
FS_HD double sine_below(double x) {
  const double z = x * x;
  double q = -z * (1.0 / 121645100408832000.0) + 1.0 / 355687428096000.0;
  q = z * q - 1.0 / 1307674368000.0;
  q = z * q + 1.0 / 6227020800.0;
  q = z * q - 1.0 / 39916800.0;
  q = z * q + 1.0 / 362880.0;
  q = z * q - 1.0 / 5040.0;
  q = z * q + 1.0 / 120.0;
  q = z * q - 1.0 / 6.0;
  return x + x * (z * q);
}

// cos(pi/2 - x) for pi/4 <= x <= pi/2. The gap and its square are sums of two numbers, since 1 - cos is small.
FS_HD double sine_above(double x) {
  constexpr double kHalfPi = 1.5707963267948966, kHalfPiLow = 6.123233995736766e-17;
  const double gap = -(x - kHalfPi);  // exact
  const double b = gap + kHalfPiLow, t = b - gap;  // Knuth's sum
  const double b_low = (gap - (b - t)) + (kHalfPiLow - t);
  const double z = b * b, c = b * 134217729.0;  // Dekker's product: 2**27 + 1 cuts 53 bits in two halves
  const double high = c - (c - b), low = b - high;
  const double z_low = (((high * high - z) + high * low + low * high) + low * low) + 2.0 * b * b_low;
  double q = -z * (1.0 / 6402373705728000.0) + 1.0 / 20922789888000.0;
  q = z * q - 1.0 / 87178291200.0;
  q = z * q + 1.0 / 479001600.0;
  q = z * q - 1.0 / 3628800.0;
  q = z * q + 1.0 / 40320.0;
  q = z * q - 1.0 / 720.0;
  q = z * q + 1.0 / 24.0;
  const double s = 1.0 - 0.5 * z;
  return s + (((1.0 - s) - 0.5 * z) + (z * z * q - 0.5 * z_low));
}

// sin(pi/2 * x) for 0 <= x <= 1.
FS_HD double sin_quarter(double x) {
  const double angle = 1.5707963267948966 * x;
  return angle < 0.7853981633974483 ? sine_below(angle) : sine_above(angle);
}

FS_NAMESPACE_END
