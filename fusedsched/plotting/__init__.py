# SPDX-License-Identifier: Apache-2.0
"""Pictures of schedules: as text in a terminal, as PNG or SVG where matplotlib is installed.

`schedule.plot()` and `python -m fusedsched plot` use it. It never imports torch, and imports matplotlib only to write a
file.
"""

from .curves import Curve as Curve, Panel as Panel, natural_steps as natural_steps, sample as sample
from .parsing import parse as parse
from .picture import Picture as Picture, of_schedules as of_schedules
