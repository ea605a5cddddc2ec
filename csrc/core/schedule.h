// SPDX-License-Identifier: Apache-2.0
// A schedule program and its evaluator: the same arithmetic on the CPU and on the GPU.
//
// A program is a flat float64 table of 8 columns. Row 0 is the header, then n_rows rows, then the values of tables.
// Rows hold no policy: what holds, restarts or climbs was decided when the schedule was lowered (schedules/lowering.py).
//
// Every expression below is a fixed form. Compile with -ffp-contract=off / --fmad=false: with contraction two
// evaluators differ by more than the 4 ulp that they promise each other.
#pragma once

#include "platform.h"
#include "sine.h"

FS_NAMESPACE_BEGIN

enum Shape : int32_t {
  kConstant = 0,      // start
  kLinear = 1,        // start to stop over span
  kCosine = 2,        // half a cosine wave from start to stop over span
  kPolynomial = 3,    // stop + (start - stop) * (1 - t/span) ** param: steep first for param > 1
  kPower = 4,         // start + (stop - start) * (t/span) ** param
  kExponential = 5,   // start * param ** t
  kStaircase = 6,     // start * param ** floor(t / span)
  kTriangle = 7,      // start to stop over span, back until cycle; the height shrinks by param each cycle
  kTriangleDecay = 8, // as kTriangle; the height shrinks by param each step
  kInversePower = 9,  // start * (1 + t/span) ** param
  kTable = 10,        // values[start + min(t, span - 1)], span values
};
constexpr int32_t kShapes = 11;
constexpr int32_t kRowWidth = 8;

struct Row {
  double begin;  // first clock value of this row, inclusive
  double shape;
  double span;   // steps from start to stop
  double start;
  double stop;
  double param;
  double cycle;  // local time is taken modulo this; 0 means never
  double track;  // rows of one track replace each other; tracks multiply
};

struct Header {
  double n_rows;
  double period;   // the clock is taken modulo this; 0 means never
  double horizon;  // the last clock value for which the program is defined; -1 means all
  double reserved[5];
};

static_assert(sizeof(Row) == kRowWidth * sizeof(double) && sizeof(Header) == sizeof(Row), "one row is one cache line");

// sin(pi/2 * part/whole) squared: the half-angle form of (1 - cos(pi * part/whole)) / 2. It keeps all its digits near
// zero, where the cosine form has none left. 0 <= part <= whole.
FS_HD double half_wave(double part, double whole) {
  const double s = sin_quarter(part / whole);
  return s * s;
}

// 1 - x ** y without cancellation, for the same reason: the last steps of a 1-sqrt decay to zero are small. rest is
// 1 - x, which the caller can form exactly; near x = 1 it holds the digits that x has lost.
FS_HD double one_minus_power(double x, double rest, double y) {
  return -expm1(y * (x < 0.5 ? log(x) : log1p(-rest)));
}

FS_HD double triangle(const Row& r, double t, double scale) {
  const double down = r.cycle - r.span;
  const double height = t < r.span ? t / r.span : (r.cycle - t) / down;
  return r.start + (r.stop - r.start) * height * scale;
}

// The shapes that hold a power; it is taken at one place, since on a device its code is long.
FS_HD double power_value(const Row& r, int32_t shape, double t, double whole, double turns) {
  double base = r.param, exponent = r.param;
  switch (shape) {
    case kPolynomial: base = (r.span - t) / r.span; break;
    case kPower: base = t / r.span; break;
    case kExponential: exponent = t; break;
    case kStaircase: exponent = floor(t / r.span); break;
    case kTriangle: exponent = turns; break;
    case kTriangleDecay: exponent = whole; break;
    case kInversePower: base = (r.span + t) / r.span; break;
    default: return 0.0 / 0.0;  // not a shape: the value shows it
  }
  const double power = pow(base, exponent);
  if (shape == kTriangle || shape == kTriangleDecay) return triangle(r, t, power);
  const bool falls = shape == kPolynomial;
  if (!falls && shape != kPower) return r.start * power;
  // The base is formed again: kept across the power, it would cost a device a stack frame.
  const double part = (falls ? r.span - t : t) / r.span, rest = (falls ? t : r.span - t) / r.span;
  const double from = falls ? r.start : r.stop, to = falls ? r.stop : r.start;
  return from * power + to * one_minus_power(part, rest, r.param);
}

// t: local time, reduced by the cycle; whole: local time before that; turns: cycles completed.
FS_HD double shape_value(const Row& r, const double* values, double t, double whole, double turns) {
  const int32_t shape = static_cast<int32_t>(r.shape);
  switch (shape) {
    case kConstant:
      return r.start;
    case kLinear:
      return (r.start * (r.span - t) + r.stop * t) / r.span;
    case kCosine: {
      const double u = t <= r.span ? t : 2.0 * r.span - t;  // the way back of a wave that is not cut off
      return r.start * half_wave(r.span - u, r.span) + r.stop * half_wave(u, r.span);
    }
    case kTable:
      return values[static_cast<int64_t>(r.start) + static_cast<int64_t>(t < r.span ? t : r.span - 1.0)];
  }
  return power_value(r, shape, t, whole, turns);
}

FS_HD double row_value(const Row& r, const double* values, double clock) {
  const double whole = clock - r.begin;
  const bool cyclic = r.cycle > 0.0;
  const double t = cyclic ? fmod(whole, r.cycle) : whole;
  return shape_value(r, values, t, whole, cyclic ? (whole - t) / r.cycle : 0.0);
}

// Rows are sorted by (track, begin). The value is the product over tracks of the last row begun.
FS_HD double evaluate(const double* program, double clock) {
  const Header& header = *reinterpret_cast<const Header*>(program);
  const Row* rows = reinterpret_cast<const Row*>(program) + 1;
  const int32_t n = static_cast<int32_t>(header.n_rows);
  const double* values = program + static_cast<int64_t>(n + 1) * kRowWidth;
  if (header.period > 0.0) clock = fmod(clock, header.period);
  double product = 1.0;
  for (int32_t i = 0; i < n; ++i) {
    const bool last_of_track = i + 1 == n || rows[i + 1].track != rows[i].track;
    // The first row of a track also serves clocks before its begin; lowering never leaves such a gap.
    if (last_of_track || rows[i + 1].begin > clock) {
      product *= row_value(rows[i], values, clock);
      while (i + 1 < n && rows[i + 1].track == rows[i].track) ++i;
    }
  }
  return product;
}

FS_NAMESPACE_END
