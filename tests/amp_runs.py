# SPDX-License-Identifier: Apache-2.0
"""Properties of `torch.amp.GradScaler`, for test_amp.py and, under Triton's interpreter, test_amp_triton.py.

`make(name, params, **options)` builds an optimizer. Scales are powers of two, so that scaling rounds nothing.
"""

import copy

import torch
from cases import VISIBLE, torch_twin
from compared import equal
from scripting import assert_same, parameters, seen

from fusedsched import schedules as S
from fusedsched.verify import updates
from fusedsched.verify.table import OPTIMIZERS, Case

ROWS = ("AdamW", "AdamW-amsgrad", "Adam", "Adam-amsgrad", "SGD", "SGD-momentum", "SGD-nesterov", "SGD-dampening")
SCALE, STEPS = 64.0, 13
SKIPPED = (0, 3, 4, 9)  # the first update, two in a row, one alone


def scaler(**options):
    made = torch.amp.GradScaler("cpu", **{"init_scale": SCALE, "growth_interval": 2, **options})
    made.scale(torch.ones(()))  # makes the scale
    return made


def give_scaled(params, update, scale, broken=False):
    generator = torch.Generator().manual_seed(70 + update)
    for p in params:
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(p.dtype)
    if broken:
        params[-1].grad.view(-1)[-1] = torch.inf


class Behind:
    """An optimizer behind a GradScaler, which leaves out some updates besides: what it comes to is a plain run."""

    def __init__(self, optimizer):
        self.optimizer, self.scaler, self.calls = optimizer, scaler(growth_interval=4), 0

    def __getattr__(self, name):
        return getattr(self.optimizer, name)

    def _once(self, grads):
        scale = self.scaler.get_scale()
        for p, grad in grads:
            p.grad = grad if grad is None else grad * scale
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def step(self):
        grads = [(p, p.grad) for group in self.param_groups for p in group["params"]]
        if self.calls % 3 == 0:
            self._once([(p, grad if grad is None else grad * torch.inf) for p, grad in grads])
        self.calls += 1
        self._once(grads)


def check_bounds(make, row, dtype):
    """What a scaled run with skipped updates comes to is as near to float64 as torch's plain run."""
    verdict = updates.run(lambda *args, **options: Behind(make(*args, **options)), Case(row, dtype), 30)
    assert verdict.passed, verdict


def drive(make, row, unscale=(), schedule=None):
    """Trains behind a scaler; what was seen after each update."""
    given = OPTIMIZERS[row]
    params = parameters((5, 3), 17, 1)
    optimizer = make(given.optimizer, params, **{**given.options, **({} if schedule is None else {"lr": schedule})})
    scaling, history = scaler(), []
    for update in range(STEPS):
        give_scaled(params, update, scaling.get_scale(), update in SKIPPED)
        if update in unscale:
            scaling.unscale_(optimizer)
        scaling.step(optimizer)
        scaling.update()
        numbers = {"scale": scaling.get_scale(), "next lr": float(optimizer.param_groups[0]["lr"])}
        history.append(seen(optimizer, params, **numbers))
    return history, optimizer


def check_scale(make, row):
    """Scale, parameters and state are torch's after each update, whether gradients were unscaled before it or in it."""
    for unscale in ((), range(STEPS), (0, 2, 4, 5)):
        (ours, optimizer), (torchs, _) = drive(make, row, unscale), drive(torch_twin, row, unscale)
        assert optimizer.skipped_steps == len(SKIPPED)
        for mine, other in zip(ours, torchs, strict=True):
            assert_same(mine, other)


def outcome(params, optimizer):
    """What training has come to: parameters, gradients as bits (there are NaNs), state, numbers."""
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        for extra in ("schedules", "fusedsched"):
            group.get(extra, {}).pop("clocks", None)  # one of which counts skipped steps
    return copy.deepcopy(
        (
            [p.detach() for p in params],
            [p.grad.view(torch.uint8) for p in params],
            [dict(sorted(optimizer.state[p].items())) if p in optimizer.state else None for p in params],
            saved,
            [float(group["lr"]) for group in optimizer.param_groups],
        )
    )


def everything(params, optimizer):
    """All that a step could change."""
    # Autograd is told of a write by kernels that read the flag themselves: nobody waits to know better.
    versions = [p._version for p in params] if optimizer.backend in ("cpu", "reference") else None
    return outcome(params, optimizer), versions, optimizer._runtime.clocks.read()[:3]


def check_skipping(make, row, before, late):
    """A skipped update changes nothing, after `before` applied ones; `late`: a parameter's first gradient is in it."""
    given = OPTIMIZERS[row]
    params = parameters((5, 3), 17)
    optimizer = make(given.optimizer, params, **{**given.options, "lr": S.linear(0.1, 0.2, steps=9)})
    scaling = scaler(growth_interval=100)
    for update in range(before):
        give_scaled(params, update, scaling.get_scale())
        if late:
            params[1].grad = None
        scaling.step(optimizer)
        scaling.update()
    for bad in (torch.inf, torch.nan):
        give_scaled(params, before, scaling.get_scale())
        params[1].grad[4] = bad
        kept, skipped = everything(params, optimizer), optimizer.skipped_steps
        scaling.step(optimizer)
        scaling.update()
        assert equal(kept, everything(params, optimizer))
        assert optimizer.skipped_steps == skipped + 1


def micro_batches(make, name):
    """As users write it: the loss of each micro-batch is divided, and gradients are clipped before the step."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 1))
    params = list(model.parameters())
    optimizer, scaling = make(name, params, **{**VISIBLE[name], "lr": 0.01}), scaler()
    generator, norms = torch.Generator().manual_seed(2), []
    for update in range(5):
        for micro in range(3):
            x = torch.randn(8, 6, generator=generator)
            loss = model(x).square().mean() / 3
            scaling.scale(loss * torch.inf if (update, micro) in ((0, 2), (3, 0)) else loss).backward()
        scaling.unscale_(optimizer)
        norms.append(torch.nn.utils.clip_grad_norm_(params, max_norm=0.05))
        scaling.step(optimizer)
        scaling.update()
        optimizer.zero_grad()
    return seen(optimizer, params, scale=scaling.get_scale(), norms=torch.stack(norms).nan_to_num(0.0, 9.0, 9.0))


def several_optimizers(make, _):
    """One scaler. A skipped update of one of them leaves the others alone, and makes the scale smaller once."""
    params = parameters(4, 5, 6)
    rows = zip(("AdamW", "SGD", "Adam"), params, strict=True)
    optimizers = [make(name, [p], **VISIBLE[name]) for name, p in rows]
    scaling, what = scaler(), {}
    for update in range(6):
        give_scaled(params, update, scaling.get_scale())
        params[update % 3].grad[0] = torch.inf if update < 4 else 1.0
        for optimizer in optimizers:
            scaling.step(optimizer)
        scaling.update()
        what[f"scale {update}"] = scaling.get_scale()
    for i, optimizer in enumerate(optimizers):
        what |= {f"{i}: {key}": value for key, value in seen(optimizer, optimizer.param_groups[0]["params"]).items()}
    return what
