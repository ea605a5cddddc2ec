# SPDX-License-Identifier: Apache-2.0
"""What optimizers and schedulers share: backends, clocks, numbers in device memory, ops in compiled graphs."""
