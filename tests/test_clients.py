# SPDX-License-Identifier: Apache-2.0
"""Other people's code: what works with torch's optimizers and schedulers gives the same with these.

The clients of torch itself always run; accelerate, transformers, lightning and timm where they are installed.
"""

import copy
import warnings

import pytest
import torch
from tolerances import close
from torch import nn
from torch.distributed.checkpoint import state_dict as distributed
from torch.optim import swa_utils

import fusedsched as fs

OPTIONS = {
    "AdamW": dict(lr=0.01, weight_decay=0.1),
    "Adam": dict(lr=0.01, amsgrad=True),
    "SGD": dict(lr=0.01, momentum=0.9),
}
OURS, TORCHS = (fs, fs.lr_scheduler), (torch.optim, torch.optim.lr_scheduler)
UPDATES = 12  # no client makes more

every_optimizer = pytest.mark.parametrize("name", OPTIONS)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def batch(i):
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(i))


def loss_of(model, i):
    x = batch(i)
    return (model(x).squeeze(-1) - x.sum(1)).pow(2).mean()


def train(model, optimizer, updates=3, start=0):
    for i in range(start, start + updates):
        optimizer.zero_grad()
        loss_of(model, i).backward()
        optimizer.step()


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(client, *arguments):
    """`client(optimizers, schedulers, ...)` returns the weights that it made, and whatever else has to be equal."""
    (made, other), (wanted, expected) = client(*OURS, *arguments), client(*TORCHS, *arguments)
    for i, (a, b) in enumerate(zip(made, wanted, strict=True)):
        close(a, b, UPDATES, f"weight {i}")
    assert other == pytest.approx(expected, rel=1e-6)


# ---- torch's own ---------------------------------------------------------------------------------------------------


def weight_averaging(optim, schedulers, name):
    model = network()
    optimizer = getattr(optim, name)(model.parameters(), **OPTIONS[name])
    average = swa_utils.AveragedModel(model)
    cosine = schedulers.CosineAnnealingLR(optimizer, T_max=8)
    constant = swa_utils.SWALR(optimizer, swa_lr=0.005, anneal_epochs=3)
    rates = []
    for i in range(8):
        train(model, optimizer, 1, i)
        if i >= 4:
            average.update_parameters(model)
        (constant if i >= 4 else cosine).step()
        rates.append(optimizer.param_groups[0]["lr"])
    return weights(average), rates


def one_optimizer_for_each_parameter(optim, _, name):
    model = network()
    optimizers = {p: getattr(optim, name)([p], **OPTIONS[name]) for p in model.parameters()}

    def update(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(update)
    for i in range(4):
        loss_of(model, i).backward()
    return weights(model), [p.grad is None for p in model.parameters()]


def parametrized_and_tied(optim, _, name):
    model = network()
    model.insert(1, nn.Linear(8, 8, bias=False))
    model.insert(2, nn.Linear(8, 8, bias=False))
    model[2].weight = model[1].weight
    nn.utils.parametrizations.weight_norm(model[0])
    optimizer = getattr(optim, name)(model.parameters(), **OPTIONS[name])
    norms = []
    for i in range(4):
        optimizer.zero_grad(set_to_none=i % 2 == 0)
        loss_of(model, i).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.1)))
        optimizer.step()
    return weights(model), norms


def tensors_swapped(optim, _, name):
    """`Module.to()` of an FSDP model does this to each parameter; it refuses tensors that an optimizer's C++ holds."""
    model = network()
    optimizer = getattr(optim, name)(model.parameters(), **OPTIONS[name])
    train(model, optimizer)
    optimizer.zero_grad()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double().float()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    train(model, optimizer, 3, 3)
    return weights(model), []


CLIENTS = (weight_averaging, one_optimizer_for_each_parameter, parametrized_and_tied, tensors_swapped)


@every_optimizer
@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: c.__name__)
def test_clients_in_torch(client, name):
    assert_same(client, name)


@pytest.mark.parametrize("client", CLIENTS, ids=lambda c: c.__name__)
def test_the_comparison_notices_another_weight_decay(client, monkeypatch):
    class Careless(fs.AdamW):
        def __init__(self, params, **options):
            super().__init__(params, **{**options, "weight_decay": 0.0})

    monkeypatch.setattr(fs, "AdamW", Careless)
    with pytest.raises(AssertionError):
        assert_same(client, "AdamW")


@every_optimizer
@pytest.mark.parametrize("scheduled", (False, True), ids=("number", "schedule"))
@pytest.mark.parametrize("flat", (False, True), ids=("nested", "flat"))
def test_distributed_checkpoint(name, flat, scheduled):
    options = distributed.StateDictOptions(flatten_optimizer_state_dict=flat)
    arguments = dict(OPTIONS[name])
    if scheduled:
        arguments["lr"] = fs.schedules.linear(0.1, 0.0, steps=10)
    model, other = network(), network()
    optimizer, fresh = (getattr(fs, name)(m.parameters(), **arguments) for m in (model, other))
    train(model, optimizer)
    saved = copy.deepcopy(distributed.get_optimizer_state_dict(model, optimizer, options=options))
    other.load_state_dict(model.state_dict())
    with warnings.catch_warnings():
        # To have state to load into, torch sets each lr to 0, makes a step, and puts the lr back.
        warnings.filterwarnings("ignore", "The scheduled 'lr'")
        distributed.set_optimizer_state_dict(other, fresh, optim_state_dict=saved, options=options)
    assert float(fresh.param_groups[0]["lr"]) == float(optimizer.param_groups[0]["lr"])
    train(model, optimizer, 3, 3)
    train(other, fresh, 3, 3)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))


@every_optimizer
def test_another_default_device(name):
    """`torch.set_default_device("cuda")` with a model on the CPU; "meta" stands for any device that is not the CPU."""
    model = network()
    wanted = copy.deepcopy(model)
    with torch.device("meta"):
        optimizer = getattr(fs, name)(model.parameters(), **OPTIONS[name])
    for m, o in ((model, optimizer), (wanted, getattr(fs, name)(wanted.parameters(), **OPTIONS[name]))):
        for p in m.parameters():
            p.grad = torch.ones_like(p)
        with torch.device("meta"):
            o.step()
            o.load_state_dict(o.state_dict())
            o.step()
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(wanted), strict=True))
    assert all(value.is_cpu for state in optimizer.state.values() for value in state.values())


# ---- packages ------------------------------------------------------------------------------------------------------


def with_accelerate(optim, schedulers, name):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    optimizer = getattr(optim, name)(model.parameters(), **OPTIONS[name])
    scheduler = schedulers.OneCycleLR(optimizer, max_lr=0.02, total_steps=20)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    rates = []
    for i in range(6):
        accelerator.backward(loss_of(model, i))
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        rates.append(optimizer.param_groups[0]["lr"])
    return weights(model), rates


def with_transformers(optim, _, name):
    transformers = pytest.importorskip("transformers.optimization")
    model = network()
    optimizer = getattr(optim, name)(model.parameters(), **OPTIONS[name])
    scheduler = transformers.get_scheduler("cosine", optimizer, num_warmup_steps=3, num_training_steps=12)
    rates = []
    for i in range(12):
        train(model, optimizer, 1, i)
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return weights(model), rates


def with_lightning(optim, schedulers, name):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.rates = network(), []

        def training_step(self, i, _):
            return loss_of(self.model, int(i))

        def on_train_batch_end(self, *_):
            self.rates.append(self.optimizers().param_groups[0]["lr"])

        def configure_optimizers(self):
            optimizer = getattr(optim, name)(self.model.parameters(), **OPTIONS[name])
            scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=10)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    module, quiet = Module(), dict(enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False)
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", gradient_clip_val=0.5, logger=False, **quiet)
    trainer.fit(module, torch.utils.data.DataLoader(torch.arange(4)))
    return weights(module), module.rates


def with_timm(optim, _, name):
    scheduler = pytest.importorskip("timm.scheduler")
    model = network()
    optimizer = getattr(optim, name)(model.parameters(), **OPTIONS[name])
    cosine = scheduler.CosineLRScheduler(optimizer, t_initial=12, lr_min=1e-5, warmup_t=3, warmup_lr_init=1e-4)
    rates = []
    for i in range(12):
        train(model, optimizer, 1, i)
        cosine.step(i + 1)
        rates.append(optimizer.param_groups[0]["lr"])
    return weights(model), rates


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("name", ("AdamW", "SGD"))
@pytest.mark.parametrize("client", (with_accelerate, with_transformers, with_lightning, with_timm))
def test_clients_in_other_packages(client, name):
    assert_same(client, name)
