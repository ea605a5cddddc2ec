# SPDX-License-Identifier: Apache-2.0
"""The learning rate range test (Smith, 2017): rising rates for a hundred steps, and where the loss fell best."""

from .result import RangeTest as RangeTest
from .run import lr_range_test as lr_range_test
from .suggest import Suggestion as Suggestion
