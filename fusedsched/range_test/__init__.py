# SPDX-License-Identifier: Apache-2.0
"""The learning rate range test (Smith, 2017): which rate makes the loss fall best, out of a hundred rising ones."""

from .result import RangeTest as RangeTest
from .run import lr_range_test as lr_range_test
from .suggest import Suggestion as Suggestion
