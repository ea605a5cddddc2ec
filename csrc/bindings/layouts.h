// SPDX-License-Identifier: Apache-2.0
// The layouts that Python and Triton share with this module: see fusedsched/_layouts.py.
#pragma once

#include <pybind11/pybind11.h>

void bind_layouts(pybind11::module_& m);
