// SPDX-License-Identifier: Apache-2.0
// The ring of telemetry: rows of float64 numbers, all of one width. The first is its header; the others are filled in
// turn, one by each call of step() that updates or skips something. After kRowHead numbers a row has the
// hyperparameters of all groups, kMaxHyperparameters each.
#pragma once

#include "platform.h"
#include "rules.h"

FS_NAMESPACE_BEGIN

enum RingHeader : int { kRowsWritten, kNextNorm };  // the gradient norm that belongs to the next row, NaN if none does
enum RowHead : int { kRowUpdate, kRowSkipped, kRowNorm, kRowHead };

FS_HD int64_t row_width(int64_t groups) { return kRowHead + groups * kMaxHyperparameters; }

// The row that comes next. `rows`: how many the ring has, its header not counted.
FS_HD double* next_row(double* ring, int64_t rows, int64_t width) {
  return ring + (1 + static_cast<int64_t>(ring[kRowsWritten]) % rows) * width;
}

// Everything of a row but the hyperparameters.
FS_HD void finish_row(double* ring, double* row, int64_t update, bool skipped) {
  row[kRowUpdate] = static_cast<double>(update);
  row[kRowSkipped] = skipped ? 1.0 : 0.0;
  row[kRowNorm] = ring[kNextNorm];
  ring[kNextNorm] = NAN;
  ring[kRowsWritten] += 1.0;
}

FS_NAMESPACE_END
