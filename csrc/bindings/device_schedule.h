// SPDX-License-Identifier: Apache-2.0
// The launch of a scheduler that writes tensors on a GPU: see fusedsched/_rates.py, which has the tables.
#pragma once

#include <pybind11/pybind11.h>

void bind_rates(pybind11::module_& m);
