# SPDX-License-Identifier: Apache-2.0
"""BAD_INPUTS: each row does one thing that must be refused.

A row is a generator: what it does before `yield` is allowed and sets the scene, what comes after must raise. `torch`
says that torch's class raises the same type for it, with a message that ours begins with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fusedsched import schedules as S

ALL = ("AdamW", "Adam", "SGD")
ADAMS = ("AdamW", "Adam")
SGD = ("SGD",)


class Scene(NamedTuple):
    """`optimizer`: after two updates of `params`, in two groups. `new(**options)`: another one on the same."""

    optimizer: torch.optim.Optimizer
    params: list[Tensor]
    make: Callable[..., torch.optim.Optimizer]

    def new(self, params: Any = None, **options: Any) -> torch.optim.Optimizer:
        return self.make(self.params if params is None else params, **options)


class BadInput(NamedTuple):
    do: Callable[[Scene], Iterator[None]]
    optimizers: tuple[str, ...]
    error: type[Exception]
    match: str
    torch: bool


BAD_INPUTS: dict[str, BadInput] = {}


def refused(error: type[Exception], match: str, optimizers: tuple[str, ...] = ALL, torch: bool = False) -> Any:
    def add(do: Callable[[Scene], Iterator[None]]) -> Any:
        BAD_INPUTS[do.__name__] = BadInput(do, optimizers, error, match, torch)
        return do

    return add


def _argument(label: str, error: type[Exception], match: str, optimizers=ALL, torch=False, **options: Any) -> None:
    def do(scene: Scene) -> Iterator[None]:
        yield
        scene.new(**options)

    BAD_INPUTS[label] = BadInput(do, optimizers, error, match, torch)


_NAN, _INF = float("nan"), float("inf")
_argument("lr negative", ValueError, r"Invalid learning rate: -0\.1", torch=True, lr=-0.1)
_argument("lr nan in Adam", ValueError, "Invalid learning rate: nan", ADAMS, torch=True, lr=_NAN)
_argument("lr nan in SGD", ValueError, "Invalid learning rate: nan", SGD, lr=_NAN)
_argument("lr of two elements", ValueError, "Tensor lr must be 1-element", torch=True, lr=torch.ones(2))
_argument("lr negative tensor", ValueError, "Invalid learning rate: -1", torch=True, lr=torch.tensor(-1.0))
_argument("lr text", TypeError, "lr is 'fast', which is not a number", torch=True, lr="fast")
_argument("lr function", TypeError, "lr is <function", torch=True, lr=lambda update: 0.1)
_argument("eps negative", ValueError, r"Invalid epsilon value: -1e-08", ADAMS, torch=True, eps=-1e-8)
_argument("eps nan", ValueError, "Invalid epsilon value: nan", ADAMS, torch=True, eps=_NAN)
_argument("beta1 one", ValueError, r"at index 0: 1\.0", ADAMS, torch=True, betas=(1.0, 0.9))
_argument("beta1 negative", ValueError, r"at index 0: -0\.1", ADAMS, torch=True, betas=(-0.1, 0.9))
_argument("beta2 one", ValueError, r"at index 1: 1\.0", ADAMS, torch=True, betas=(0.9, 1.0))
_argument("beta2 nan", ValueError, "at index 1: nan", ADAMS, torch=True, betas=(0.9, _NAN))
_argument("betas mixed", ValueError, "both floats or both Tensors", ADAMS, torch=True, betas=(0.9, torch.tensor(0.9)))
_argument("decay negative", ValueError, r"Invalid weight_decay value: -0\.5", torch=True, weight_decay=-0.5)
_argument("decay nan in Adam", ValueError, "Invalid weight_decay value: nan", ADAMS, torch=True, weight_decay=_NAN)
_argument("decay nan in SGD", ValueError, "Invalid weight_decay value: nan", SGD, weight_decay=_NAN)
_argument("momentum negative", ValueError, r"Invalid momentum value: -0\.1", SGD, torch=True, momentum=-0.1)
_argument("momentum nan", ValueError, "Invalid momentum value: nan", SGD, momentum=_NAN)
_argument("dampening nan", ValueError, "Invalid dampening value: nan", SGD, momentum=0.9, dampening=_NAN)
_NESTEROV = "Nesterov momentum requires a momentum and zero dampening"
_argument("nesterov alone", ValueError, _NESTEROV, SGD, torch=True, nesterov=True)
_argument("nesterov dampened", ValueError, _NESTEROV, SGD, torch=True, nesterov=True, momentum=0.9, dampening=0.1)
_argument("fused and foreach", RuntimeError, "cannot be `True` together", torch=True, fused=True, foreach=True)
_argument(
    "fused and differentiable", RuntimeError, "does not support `differentiable`", torch=True, fused=True,
    differentiable=True,
)  # fmt: skip
_argument("backend unknown", ValueError, r"Invalid backend: 'gpu'\. Choose one of 'auto'", backend="gpu")
_argument("backend missing", RuntimeError, 'backend="triton" is not available: .+ Available here: ', backend="triton")
_FALLING = S.Segment(S.Shape.LINEAR, span=10, start=0.5, stop=-0.5)
_GROWING = S.Segment(S.Shape.EXPONENTIAL, start=0.1, param=1e300)
_argument("schedule negative", ValueError, "Invalid lr: the schedule falls to", lr=_FALLING)
_argument("schedule infinite", ValueError, "Invalid lr: the schedule", lr=_GROWING)
_argument("schedule of beta1 to one", ValueError, "below 1", ADAMS, betas=(S.linear(0.5, 1.0, steps=9), 0.9))
_argument("schedule of eps", ValueError, "eps cannot be scheduled", ADAMS, eps=S.constant(0.1))
_argument("no parameters", ValueError, "optimizer got an empty parameter list", torch=True, params=[])
_argument("a bare tensor", TypeError, "params argument given to the optimizer", torch=True, params=torch.ones(2))
_argument("a number among parameters", TypeError, "optimizer can only optimize Tensors", torch=True, params=[1.0])
_argument(
    "a parameter that is computed", ValueError, "can't optimize a non-leaf Tensor", torch=True,
    params=[torch.ones(2, requires_grad=True) * 2],
)  # fmt: skip


@refused(ValueError, "some parameters appear in more than one parameter group", torch=True)
def parameter_in_two_groups(scene):
    yield
    scene.optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True), scene.params[0]]})


@refused(TypeError, "param_group must be a dict", torch=True)
def group_that_is_no_dict(scene):
    yield
    scene.optimizer.add_param_group([scene.params[0]])


@refused(TypeError, "ordered collections", torch=True)
def group_of_a_set(scene):
    yield
    scene.optimizer.add_param_group({"params": {torch.ones(2, requires_grad=True)}})


@refused(ValueError, "should be with/without names", torch=True)
def names_for_some(scene):
    yield
    scene.optimizer.add_param_group({"params": [("w", torch.ones(2, requires_grad=True))]})


@refused(ValueError, "Invalid learning rate: -1")
def group_with_a_negative_lr(scene):
    yield
    scene.optimizer.add_param_group({"params": [torch.ones(2, requires_grad=True)], "lr": -1.0})


@refused(ValueError, "Invalid learning rate: nan")
def group_with_a_nan_lr_at_construction(scene):
    yield
    scene.new([{"params": scene.params[:1]}, {"params": scene.params[1:], "lr": _NAN}])


@refused(RuntimeError, "Adam does not support sparse gradients, please consider SparseAdam instead", ADAMS, torch=True)
def sparse_gradient_in_adam(scene):
    scene.params[0].grad = torch.ones(4).to_sparse()
    yield
    scene.optimizer.step()


_SGD_IS_DENSE = r"^(SGD|`_fused_sgd`) does not support sparse gradients.+use sparse=False in the embedding"


@refused(RuntimeError, _SGD_IS_DENSE, SGD)
def sparse_gradient_in_sgd(scene):
    scene.params[0].grad = torch.ones(4).to_sparse()
    yield
    scene.optimizer.step()


@refused(RuntimeError, r"parameter 0 of group 0 .*shape .*[74],?[\])].*shape .*[74],?[\])]")
def gradient_of_another_shape(scene):
    scene.params[0].data = torch.ones(7)
    scene.optimizer.state.pop(scene.params[0], None)
    yield
    scene.optimizer.step()


@refused(RuntimeError, "gradient of parameter 0 of group 0 .*omplex")
def complex_gradient_of_a_real_parameter(scene):
    p = torch.ones(4, dtype=torch.complex64, requires_grad=True)
    p.grad = torch.ones(4, dtype=torch.complex64)
    p.data = torch.ones(4)
    scene.optimizer.param_groups[0]["params"][0] = p
    yield
    scene.optimizer.step()


@refused(RuntimeError, "int32")
def integer_parameter(scene):
    p = torch.ones(3, dtype=torch.int32)
    scene.optimizer.param_groups[1]["params"].append(p)
    p.grad = torch.ones(3, dtype=torch.int32)
    yield
    scene.optimizer.step()


@refused(RuntimeError, "more than one element of the written-to tensor refers to a single memory location", torch=True)
def parameter_with_overlapping_elements(scene):
    p = torch.ones(1).expand(4).requires_grad_()
    scene.optimizer.param_groups[1]["params"].append(p)
    p.grad = torch.ones(4)
    yield
    scene.optimizer.step()


@refused(RuntimeError, r"parameter 0 of group 1 has shape .2,?.")
def state_of_another_shape(scene):
    state = scene.optimizer.state[scene.params[2]]
    key = "exp_avg_sq" if "exp_avg_sq" in state else "momentum_buffer"
    state[key] = torch.ones(2)
    yield
    scene.optimizer.step()


@refused(TypeError, r"param_groups.1..'lr'. is 'fast', which is not a number")
def lr_replaced_by_text(scene):
    scene.optimizer.param_groups[1]["lr"] = "fast"
    yield
    scene.optimizer.step()


@refused(ValueError, "Tensor lr must be 1-element, got 2")
def lr_replaced_by_two_numbers(scene):
    scene.optimizer.param_groups[1]["lr"] = torch.ones(2)
    yield
    scene.optimizer.step()


@refused(ZeroDivisionError, "division")
def closure_that_raises(scene):
    yield
    scene.optimizer.step(lambda: 1 / 0)


@refused(ValueError, "loaded state dict has a different number of parameter groups", torch=True)
def state_dict_with_fewer_groups(scene):
    other = scene.new()
    yield
    scene.optimizer.load_state_dict(other.state_dict())


@refused(ValueError, "doesn't match the size of optimizer's group", torch=True)
def state_dict_with_fewer_parameters(scene):
    other = scene.new([{"params": scene.params[:1]}, {"params": scene.params[2:]}])
    yield
    scene.optimizer.load_state_dict(other.state_dict())


@refused(ValueError, r"shape \(9,\).+parameter 0 of group 1.+another model")
def state_dict_of_another_model(scene):
    params = [torch.ones(n, requires_grad=True) for n in (4, 6, 9)]
    params[1] = torch.ones(2, 3, requires_grad=True)
    other = scene.new([{"params": params[:2]}, {"params": params[2:]}], **_MOMENTUM[type(scene.optimizer).__name__])
    for p in params:
        p.grad = torch.ones_like(p)
    other.step()
    yield
    scene.optimizer.load_state_dict(other.state_dict())


_MOMENTUM = {"AdamW": {}, "Adam": {}, "SGD": {"momentum": 0.9}}


@refused(ValueError, "Invalid override: 'maybe'")
def override_unknown(scene):
    saved = scene.optimizer.state_dict()
    yield
    scene.optimizer.load_state_dict(saved, override="maybe")


@refused(ValueError, "saved schedule of 'lr' in group 0 is not the present one")
def override_error_with_another_schedule(scene):
    saved = scene.new([{"params": scene.params[:2]}, {"params": scene.params[2:]}], lr=S.constant(0.5)).state_dict()
    scene.optimizer.set_schedule("lr", S.linear(0.1, 0.0, steps=10))
    yield
    scene.optimizer.load_state_dict(saved, override="error")


@refused(ValueError, "'eps' cannot be scheduled|'dampening' cannot be scheduled")
def set_schedule_of_what_cannot_vary(scene):
    yield
    scene.optimizer.set_schedule("eps" if "eps" in scene.optimizer.defaults else "dampening", S.constant(0.5))


@refused(TypeError, "set_schedule takes a schedule")
def set_schedule_to_a_number(scene):
    yield
    scene.optimizer.set_schedule("lr", 0.5)


@refused(ValueError, "Invalid lr: the schedule falls to")
def set_schedule_that_becomes_negative(scene):
    yield
    scene.optimizer.set_schedule("lr", _FALLING)


@refused(RuntimeError, "The schedule of 'lr' ends at step 0")
def update_past_the_end_of_a_schedule(scene):
    scene.optimizer.set_schedule("lr", S.from_function(lambda update: 0.1, steps=1))
    yield
    scene.optimizer.step()


@refused(ValueError, "samples=-1")
def clock_set_back(scene):
    yield
    scene.optimizer.advance(samples=-1)
