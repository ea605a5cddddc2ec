// SPDX-License-Identifier: Apache-2.0
// Steps a drop-in scheduler on the host: the compiled PythonHostDriver of fusedsched/lr_scheduler/driver.py.
#pragma once

#include <pybind11/pybind11.h>

void bind_host_driver(pybind11::module_& m);
