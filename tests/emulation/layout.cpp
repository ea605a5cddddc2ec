// SPDX-License-Identifier: Apache-2.0
// For driver.py, which repeats launch.h in Python.
#include "cuda/launch.h"

extern "C" {

#define FS_SIZE(type) extern const int64_t fs_emulation_size_of_##type = sizeof(fs_cuda::type)
FS_SIZE(Array);
FS_SIZE(Group);
FS_SIZE(NativeSchedule);
FS_SIZE(PendingValue);
FS_SIZE(Header);
FS_SIZE(HostCopy);
FS_SIZE(Launch);
FS_SIZE(Runtime);

}  // extern "C"
