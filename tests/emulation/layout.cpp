// SPDX-License-Identifier: Apache-2.0
// For driver.py, which repeats launch.h in Python.
#include "cuda/launch.h"

extern "C" {

int64_t fs_emulation_size_of_array() { return sizeof(fs_cuda::Array); }
int64_t fs_emulation_size_of_hyperparameter() { return sizeof(fs_cuda::Hyperparameter); }
int64_t fs_emulation_size_of_launch() { return sizeof(fs_cuda::Launch); }

}  // extern "C"
