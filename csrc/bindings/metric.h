// SPDX-License-Identifier: Apache-2.0
// What a scheduler that follows a metric wants of a GPU: see fusedsched/lr_scheduler/boards.py.
#pragma once

#include <pybind11/pybind11.h>

void bind_plateau(pybind11::module_& m);
