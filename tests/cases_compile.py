# SPDX-License-Identifier: Apache-2.0
"""What is compiled: optimizers, and schedulers for one whose step was built."""

from cases import BACKENDS
from cases_lr_schedulers import CLOSED_FORM, CONFIGURED, FUNCTIONS, METRIC

import fusedsched as fs

OPTIMIZERS = {  # those that differ in state, and backends
    "AdamW": lambda p, **k: fs.AdamW(p, **{"lr": 1e-2, **k}),
    "Adam amsgrad": lambda p, **k: fs.Adam(p, **{"lr": 1e-2, "amsgrad": True, "weight_decay": 0.1, **k}),
    "SGD": lambda p, **k: fs.SGD(p, **{"lr": 0.1, **k}),
    "SGD momentum": lambda p, **k: fs.SGD(p, **{"lr": 0.1, "momentum": 0.9, "dampening": 0.5, **k}),
}
OPTIMIZERS |= {
    f"AdamW {b}": lambda p, b=b, **k: fs.AdamW(p, **{"lr": 1e-2, "backend": b, **k}) for b in BACKENDS if b != "cpu"
}
SCHEDULERS = {name: CONFIGURED[name] for name in (*CLOSED_FORM, *FUNCTIONS, *METRIC) if " " not in name}
SCHEDULERS |= {
    "CyclicLR": lambda o: CONFIGURED["CyclicLR"](o, cycle_momentum=False),
    "OneCycleLR": lambda o: CONFIGURED["OneCycleLR"](o, end=2000),
    "warmup, plateau": CONFIGURED["warmup, plateau"],
    "none": lambda o: None,
}
