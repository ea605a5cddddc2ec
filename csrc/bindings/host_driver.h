// SPDX-License-Identifier: Apache-2.0
// A track advances one drop-in scheduler while nobody interferes: see fusedsched/lr_scheduler/tracks.py, which says the
// same in Python.
#pragma once

#include <pybind11/pybind11.h>

void bind_track(pybind11::module_& m);
