# SPDX-License-Identifier: Apache-2.0
"""Pictures of schedules: as text in a terminal, as PNG or SVG where matplotlib is installed.

`schedule.plot()` and `python -m fusedsched plot` come here. Nothing is imported but what a picture needs: torch never,
matplotlib when a file is written.
"""

from .curves import Curve as Curve, Panel as Panel, natural_steps as natural_steps, sample as sample
from .parsing import parse as parse
from .picture import Picture as Picture, of_schedules as of_schedules
