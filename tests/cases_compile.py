# SPDX-License-Identifier: Apache-2.0
"""What is compiled: optimizers, and schedulers for one whose step was built."""

from cases import BACKENDS

import fusedsched as fs
from fusedsched import lr_scheduler as L

OPTIMIZERS = {  # those that differ in state, and backends
    "AdamW": lambda p, **k: fs.AdamW(p, **{"lr": 1e-2, **k}),
    "Adam amsgrad": lambda p, **k: fs.Adam(p, **{"lr": 1e-2, "amsgrad": True, "weight_decay": 0.1, **k}),
    "SGD": lambda p, **k: fs.SGD(p, **{"lr": 0.1, **k}),
    "SGD momentum": lambda p, **k: fs.SGD(p, **{"lr": 0.1, "momentum": 0.9, "dampening": 0.5, **k}),
}
OPTIMIZERS |= {
    f"AdamW {b}": lambda p, b=b, **k: fs.AdamW(p, **{"lr": 1e-2, "backend": b, **k}) for b in BACKENDS if b != "cpu"
}
SCHEDULERS = {
    "LambdaLR": lambda o: L.LambdaLR(o, lambda t: 1 / (t + 1)),
    "MultiplicativeLR": lambda o: L.MultiplicativeLR(o, lambda t: 0.9),
    "StepLR": lambda o: L.StepLR(o, 3),
    "MultiStepLR": lambda o: L.MultiStepLR(o, [2, 5]),
    "ConstantLR": lambda o: L.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: L.LinearLR(o, 0.1, total_iters=6),
    "ExponentialLR": lambda o: L.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: L.PolynomialLR(o, 20, 2.0),
    "CosineAnnealingLR": lambda o: L.CosineAnnealingLR(o, 8),
    "CosineAnnealingWarmRestarts": lambda o: L.CosineAnnealingWarmRestarts(o, 5),
    "CyclicLR": lambda o: L.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=False),
    "OneCycleLR": lambda o: L.OneCycleLR(o, 0.1, total_steps=2000),
    "SWALR": lambda o: L.SWALR(o, 0.05, anneal_epochs=4),
    "SequentialLR": lambda o: L.SequentialLR(o, [L.LinearLR(o, 0.1), L.CosineAnnealingLR(o, 8)], [4]),
    "ChainedScheduler": lambda o: L.ChainedScheduler([L.LinearLR(o, 0.1), L.ExponentialLR(o, 0.9)]),
    "ReduceLROnPlateau": lambda o: L.ReduceLROnPlateau(o, patience=1),
    "GreedyLR": lambda o: L.GreedyLR(o, patience=1, smooth=True, window_size=3),
    "warmup, plateau": lambda o: L.SequentialLR(o, [L.LinearLR(o, 0.1), L.ReduceLROnPlateau(o, patience=1)], [4]),
    "none": lambda o: None,
}
