// SPDX-License-Identifier: Apache-2.0
// What a program table from Python has to be, so that no evaluator reads beside it.
#pragma once

#include <cmath>
#include <cstddef>
#include <stdexcept>
#include <string>

#include "core/schedule.h"

namespace fs {

// Throws what is a ValueError in Python for a table that is cut off, or a row of which reads values that are not there.
inline void check_program(const double* table, size_t size) {
  const auto require = [size](bool holds, const char* what) {
    if (holds) return;
    throw std::invalid_argument("A program table of " + std::to_string(size) + " numbers " + what +
                                ". Take the one of Schedule.program.");
  };
  require(size >= 2 * kRowWidth, "has no header and no row");
  const double n = reinterpret_cast<const Header*>(table)->n_rows;
  require(n >= 1.0 && n == std::floor(n) && n <= static_cast<double>(size / kRowWidth - 1), "lacks rows");
  const auto rows = static_cast<size_t>(n);
  const double values = static_cast<double>(size - (rows + 1) * kRowWidth);
  const Row* row = reinterpret_cast<const Row*>(table) + 1;
  for (size_t i = 0; i < rows; ++i, ++row) {
    require(row->shape >= 0.0 && row->shape < kShapes, "has a row of an unknown shape");
    if (static_cast<int32_t>(row->shape) != kTable) continue;
    const bool first = i == 0 || row[-1].track != row->track;
    require(!first || row->begin <= 0.0, "begins with values that are too late");
    require(row->start >= 0.0 && row->span >= 1.0 && row->start + row->span <= values, "lacks values");
  }
}

}  // namespace fs
