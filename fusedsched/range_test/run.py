# SPDX-License-Identifier: Apache-2.0
"""The range test."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fusedsched.range_test.log import LossLog
from fusedsched.range_test.result import RangeTest
from fusedsched.range_test.saved import restored
from fusedsched.range_test.stand_in import drive, parameters_of, ramp, stand_in
from fusedsched.range_test.suggest import SMOOTHING, Watch, divergence, smooth, suggestions, threshold
from fusedsched.schedules import Schedule

_CEILING = 4.0  # if stop_factor is None: losses are clipped at this multiple of the best


def lr_range_test(
    model: nn.Module,
    loader_or_step: Any,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    optimizer: Any = None,
    *,
    start: float = 1e-7,
    stop: float = 10.0,
    steps: int = 100,
    mode: str = "exponential",
    stop_factor: float | None = 4.0,
    smoothing: float = SMOOTHING,
    cycle: bool = True,
    device: torch.device | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> RangeTest:
    """Trains for up to `steps` updates with a rising learning rate, restores everything, and suggests a rate.

        exponential: lr(u) = start * (stop / start) ** (u / (steps - 1))
        linear:      lr(u) = start + (stop - start) * u / (steps - 1)

    The rate is a native schedule of an optimizer of this package; the losses stay on the device. On the CPU the run
    ends at the step that diverged. On a CUDA device the host reads losses without waiting, so the run takes some more
    steps and its result is cut at the same step.

    Parameters, gradients, buffers, training modes, and the random number generators of Python, NumPy and torch are
    restored bitwise, also after an exception or Ctrl-C; that needs memory for one copy of the model. The optimizer is
    not changed: a copy takes the steps. Not restored: batches taken from an iterator, and plain Python attributes of
    modules.

    Args:
        model: runs in training mode. Submodules in eval() stay so if the model itself is in training mode.
        loader_or_step: an iterable of (input, target) batches, moved to `device`; the loss is
            `loss_fn(model(input), target)`. Or a function without arguments that returns the loss of the next batch
            and may call `backward()` itself (several times, to accumulate); otherwise the test calls it.
        loss_fn: for batches; not used with a function.
        optimizer: None for AdamW; or an optimizer of torch or fusedsched; or a function that makes one from a list of
            parameters, such as a class. The ramp is the first group's; others keep their ratio to it.
        start, stop: the first and the last rate, 0 < start < stop.
        steps: updates, 3 or more.
        mode: "exponential" or "linear".
        stop_factor: the run has diverged when the running mean of the loss is above this multiple of its best value
            (see `fusedsched.range_test.suggest.threshold`), more than 1; None: only when the loss is not finite.
        smoothing: weight of a neighbour in the means, 0 (none) up to less than 1.
        cycle: restarts a loader that ends before `steps`; False: a short loader is an error.
        device: where batches are moved; by default to the device of the model's first parameter.
        progress: called with the number of steps done.

    Raises TypeError and ValueError for wrong arguments, before anything is changed; ValueError for a loader that ends
    early, with the number of its batches, and for a loss that is not finite at the first step.
    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017. Loss threshold and suggestions as
    in torch-lr-finder, Lightning and fastai; their plain loops give the same losses.

    >>> _ = torch.manual_seed(0)
    >>> model = nn.Linear(4, 1)
    >>> batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(10, 32, 4)]
    >>> found = lr_range_test(model, batches, nn.functional.mse_loss, torch.optim.SGD(model.parameters(), lr=0.1))
    >>> found.diverged_at is not None, 1e-3 < found.suggestion.lr < 1.0
    (True, True)
    """
    _check_numbers(start, stop, steps, mode, stop_factor, smoothing)
    params = _check_model(model, optimizer)
    device = torch.device(device) if device is not None else params[0].device
    step = _step_function(model, loader_or_step, loss_fn, steps, cycle, device)
    rates = ramp(start, stop, steps, mode)
    modules = [model, *([loss_fn] if isinstance(loss_fn, nn.Module) else [])]
    with restored(modules, params, loader_or_step, device), torch.enable_grad():
        for p in params:
            p.grad = None
        if not model.training:
            model.train()
        trial = stand_in(optimizer, [p for p in params if p.requires_grad])
        losses = _run(trial, step, rates, steps, Watch(stop_factor, smoothing), progress)
    return _result(losses, rates, steps, mode, stop_factor, smoothing, trial)


def _check_numbers(start, stop, steps, mode, stop_factor, smoothing) -> None:
    if not (0.0 < start < stop < math.inf):
        raise ValueError(f"Invalid start, stop: {start}, {stop}. They must be rates with 0 < start < stop.")
    if not math.isfinite(steps) or steps != int(steps) or steps < 3:
        raise ValueError(f"Invalid steps: {steps}. It must be a whole number, 3 or more; 100 is usual.")
    if mode not in ("exponential", "linear"):
        raise ValueError(f"Invalid mode: {mode!r}. It must be 'exponential' or 'linear'.")
    if stop_factor is not None and not stop_factor > 1.0:
        raise ValueError(f"Invalid stop_factor: {stop_factor}. It must be more than 1, or None.")
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"Invalid smoothing: {smoothing}. It must be in [0, 1).")


def _check_model(model: nn.Module, optimizer: Any) -> list[Tensor]:
    """All parameters that a run may change."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}. It must be a torch.nn.Module, so that it can be restored.")
    params = list(model.parameters())
    if any(nn.parameter.is_lazy(p) for p in params):
        raise ValueError("The model has lazy parameters, which get their shape from data. Run one batch through first.")
    if not any(p.requires_grad for p in params):
        raise ValueError(
            f"{type(model).__name__} has {len(params)} parameters, none of which requires a gradient: there is nothing "
            "to train. Check requires_grad, and that layers sit in a ModuleList, not in a plain list."
        )
    if isinstance(optimizer, torch.optim.Optimizer):
        known, held = {id(p) for p in params}, parameters_of(optimizer)
        if not any(id(p) in known for p in held):
            raise ValueError("The optimizer holds no parameter of this model. Make it from model.parameters().")
        params += [p for p in held if id(p) not in known]
    return params


def _step_function(
    model: nn.Module, source: Any, loss_fn: Any, steps: int, cycle: bool, device: torch.device
) -> Callable[[], Tensor]:
    """A function that returns the loss of the next batch."""
    if not (hasattr(source, "__iter__") or hasattr(source, "__getitem__")):
        if callable(source):
            return source
        raise TypeError(f"loader_or_step is a {type(source).__name__}. Give an iterable of batches or a function.")
    if loss_fn is None:
        raise TypeError("loss_fn is missing: batches need a function of (output, target).")
    length = _length(source)
    if length == 0 or (length is not None and length < steps and not cycle):
        raise ValueError(_too_short(length, steps, again=True))
    batches = _batches(source, steps, cycle)

    def step() -> Tensor:
        batch = next(batches)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(
                f"A batch is a {type(batch).__name__}, not a pair (input, target). Give a function without arguments "
                "that returns the loss in place of the loader."
            )
        inputs, target = (_moved(part, device) for part in batch)
        return loss_fn(model(inputs), target)

    return step


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None


def _too_short(count: int, steps: int, again: bool) -> str:
    if count == 0:
        return "The loader gave no batches at all."
    what = "cycle=True starts it again" if again else "an iterator cannot be started again; give the loader itself"
    return f"The loader ended after {count} batches, and steps={steps} need one each. Give steps={count}, or: {what}."


def _batches(source: Any, steps: int, cycle: bool) -> Iterator[Any]:
    count = 0
    while True:
        before, iterator = count, iter(source)
        for batch in iterator:
            count += 1
            yield batch
        if not cycle or count == before or iterator is source:
            raise ValueError(_too_short(count, steps, again=iterator is not source))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _moved(item, device) for key, item in value.items()}
    if type(value) in (tuple, list):
        return type(value)(_moved(item, device) for item in value)
    return value


def _run(
    trial: torch.optim.Optimizer,
    step: Callable[[], Tensor],
    rates: Schedule,
    steps: int,
    watch: Watch,
    progress: Callable[[int], None] | None,
) -> list[float]:
    """All losses when the run ends, perhaps with some after the divergence."""
    params, before, log = parameters_of(trial), drive(trial, rates), LossLog(steps)
    losses: list[float] = []
    for i in range(steps):
        before(i)
        trial.zero_grad()
        loss = step()
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"type {type(loss).__name__}"
            raise TypeError(f"The loss is of {what}. It must be a tensor with one element, such as a mean.")
        log.record(i, loss)
        arrived = log.new()
        losses += arrived
        if any(watch.diverged(value) for value in arrived):
            return losses
        if all(p.grad is None for p in params) and loss.requires_grad:
            loss.backward()
        if all(p.grad is None for p in params):  # without one the schedule would not advance
            raise RuntimeError(
                f"No parameter of the optimizer got a gradient at step {i}. The loss must depend on the model, "
                "with its graph; or call backward() in your function."
            )
        trial.step()
        if progress is not None:
            progress(i + 1)
    return losses + log.rest(steps)


def _result(losses, rates, steps, mode, stop_factor, smoothing, trial) -> RangeTest:
    end = divergence(losses, stop_factor, smoothing)
    if end == 0:
        raise ValueError(
            f"The loss of the first step is {losses[0]}, before any update: check the data, the model and loss_fn."
        )
    kept = losses if end is None else losses[: end + 1]
    usable = losses[:end]
    watch = Watch(None, smoothing)
    for loss in usable:
        watch.diverged(loss)
    smoothed = smooth(usable, smoothing, threshold(watch.best, watch.first, stop_factor or _CEILING))
    lrs = rates.curve(len(kept))
    found = suggestions(lrs, smoothed, log=mode == "exponential")
    kind = type(trial)
    name = f"{'fusedsched' if kind.__module__.startswith('fusedsched.') else kind.__module__}.{kind.__name__}"
    return RangeTest(lrs, kept, smoothed, found, end, steps, mode, name)
