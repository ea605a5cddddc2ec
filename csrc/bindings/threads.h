// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace fs {

// How many threads at::parallel_for gives to code in this extension, counted, not asked for.
int threads_used();

}  // namespace fs
