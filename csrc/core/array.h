// SPDX-License-Identifier: Apache-2.0
// One parameter as a launcher walks over it: its arrays by role, all in one element order.
#pragma once

#include <cstdint>

#include "dtype.h"

namespace fs {

constexpr int kMaxStates = 3;

// What an array is to its parameter. A launcher that has no use for a role does not read it.
enum Role : int {
  kGrad,
  kParam,
  kState0,                      // and the further arrays of the rule's state
  kExact = kState0 + kMaxStates,  // what the parameter's dtype cannot hold of the weight (ElementOptions::weights)
  kEma,                         // a running mean of the weight
  kScratch,                     // from one pass of a step to the next
  kMaxArrays
};

struct Array {
  void* data[kMaxArrays];  // null: there is none
  int64_t numel;           // real numbers: a complex one is two
  float* step;             // state["step"], float32; null without one. If it is not the exact count, user code wrote it
  DType dtype[kMaxArrays];  // of those that there are
  int32_t group;
  bool aligned;    // all arrays but the gradient begin on 16 bytes
  int64_t* count;  // updates so far, exact; null where the host counts
};

// What only some options of a step ask of an array; a table of its own, that only those read.
struct Placement {
  // Element j is element first + (j / run) * pitch + j % run of the global tensor: shards of dimension 0, of others and
  // of two. Of a whole tensor, j.
  int64_t first, run, pitch;
  double lr_scale, wd_scale;  // factors of the group's lr and weight decay; 1
};

}  // namespace fs
