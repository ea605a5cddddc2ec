// SPDX-License-Identifier: Apache-2.0
// The launch of a drop-in scheduler on a GPU: fusedsched/runtime/device_schedule.py has the tables.
#pragma once

#include <pybind11/pybind11.h>

void bind_device_schedule(pybind11::module_& m);
