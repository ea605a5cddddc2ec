// SPDX-License-Identifier: Apache-2.0
// Launches of metric schedulers: see fusedsched/lr_scheduler/metric_state.py.
#pragma once

#include <pybind11/pybind11.h>

void bind_metric(pybind11::module_& m);
