# SPDX-License-Identifier: Apache-2.0
"""Drop-in optimizers: `AdamW`, `Adam`, `SGD`. Each is a subclass of torch's class of the same name."""

from fusedsched.optim.adam import Adam as Adam, AdamW as AdamW
from fusedsched.optim.sgd import SGD as SGD
from fusedsched.optim.telemetry import Telemetry as Telemetry
from fusedsched.runtime.backends import backends as backends

__all__ = ["SGD", "Adam", "AdamW", "Telemetry", "backends"]
