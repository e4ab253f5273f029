"""Functions with the competition's signature, run as they are, in both engines."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from harness.draws.stages import Unlearning
from harness.draws.store import Store
from harness.engine.plain import Batch, PlainFunction
from harness.errors import UserError
from harness.registry.methods import MethodSpec
from tests.helpers import DROPOUT_NET, differences, identical, put, training, unlearn


def spec(function, **parameters):
    return MethodSpec(function.__name__, "own", f"{__name__}.{function.__name__}", parameters)


@pytest.fixture(scope="module")
def originals(tmp_path_factory, task):
    store = Store(tmp_path_factory.mktemp("originals"))
    store.put_task(task)
    sequential, stacked = (training(task, stacked=stacked) for stacked in (False, True))
    put(store, sequential, [0, 1])
    for draw in (0, 1):
        store.put(stacked.key, draw, *store.get(sequential.key, draw))
    return store, sequential, stacked


# --- functions as they are found ------------------------------------------------------------------------------------


def in_place(net, retain_loader, forget_loader, val_loader):
    """The organisers' baseline, returning nothing."""
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1)
    net.train()
    for sample in retain_loader:
        inputs, targets = sample["image"], sample["age_group"]
        inputs, targets = inputs.to(inputs.device), targets.to(inputs.device)
        optimizer.zero_grad()
        loss = criterion(net(inputs), targets)
        loss.backward()
        optimizer.step()
    scheduler.step()
    net.eval()


def pairs(net, retain_loader, forget_loader, val_loader):
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for (x_r, y_r), (x_f, y_f) in zip(retain_loader, forget_loader, strict=False):
        loss = F.cross_entropy(net(x_r), y_r) - 0.1 * F.cross_entropy(net(x_f), y_f)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def another_module(net, retain_loader, forget_loader, val_loader):
    import copy

    student = copy.deepcopy(net)
    with torch.no_grad():
        net[0].weight.zero_()  # the one that is left behind does not count
        student[-1].bias.add_(1.0)
    for parameter in student.parameters():
        parameter.requires_grad_(False)
    return student


def own_loader(net, retain_loader, forget_loader, val_loader, *, batch_size=8):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    loader = DataLoader(retain_loader.dataset, batch_size=batch_size, shuffle=True)
    for batch in loader:
        x, y = batch
        assert len(x) <= batch_size
        assert torch.equal(x, batch["image"])
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()


def random_numbers(net, retain_loader, forget_loader, val_loader):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
        net[-1].bias.add_(np.random.normal())
        net[-1].bias.mul_(random.uniform(0.5, 2))


def numbers_of(net, retain_loader, forget_loader, val_loader, *, source):
    value = {"torch": lambda: float(torch.rand(())), "numpy": np.random.rand, "python": random.random}[source]()
    with torch.no_grad():
        net[-1].bias.fill_(value)


def with_extras(net, retain_loader, forget_loader, val_loader, alpha, *, epochs=1, names=("a",)):
    with torch.no_grad():
        net[-1].bias.fill_(alpha * epochs)


def frozen_layers(net, retain_loader, forget_loader, val_loader):
    for parameter in net.parameters():
        assert parameter.requires_grad
        parameter.requires_grad = False
    net[-1].weight.requires_grad = True
    optimizer = torch.optim.SGD([net[-1].weight], lr=0.1)
    x, y = next(iter(forget_loader))
    F.cross_entropy(net(x), y).backward()
    optimizer.step()


FUNCTIONS = [in_place, pairs, another_module, own_loader, random_numbers, frozen_layers]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_runs_unmodified_and_alike_in_both_engines(originals, task, function):
    store, sequential, stacked = originals
    alone = [unlearn(Unlearning(sequential, spec(function), 0, "paired"), [d], store, task).state() for d in (0, 1)]
    together = unlearn(Unlearning(stacked, spec(function), 0, "paired"), [0, 1], store, task).state()
    for draw in (0, 1):
        before = sequential.restore([draw], store).state()
        assert max(differences(alone[draw], {n: t[draw] for n, t in together.items()}).values()) < 1e-9
        assert max(differences(alone[draw], before).values()) > 1e-4


def test_what_is_returned_is_the_result(originals, task):
    store, sequential, _ = originals
    before = sequential.restore([0], store).state()
    after = unlearn(Unlearning(sequential, spec(another_module), 0, "paired"), [0], store, task)
    assert torch.equal(after.state()["0.weight"], before["0.weight"])
    torch.testing.assert_close(after.state()["13.bias"], before["13.bias"] + 1)


@pytest.mark.parametrize("source", ["torch", "numpy", "python"])
@pytest.mark.parametrize("stacked", [False, True])
def test_global_random_numbers_are_each_draws_own(originals, task, source, stacked):
    store, *stages = originals
    stage = Unlearning(stages[stacked], spec(numbers_of, source=source), 0, "paired")

    def value(draw, stage=stage):
        return float(unlearn(stage, [draw], store, task).state()["13.bias"].flatten()[0])

    torch.manual_seed(len(source))
    first, second = value(0), value(1)
    assert first == value(0)
    assert first != second
    assert value(0, Unlearning(stages[stacked], spec(numbers_of, source=source), 1, "paired")) != first
    if stacked:
        both = unlearn(stage, [1, 0], store, task).state()["13.bias"][:, 0].tolist()
        assert both == [second, first]


def test_draws_are_reproducible_to_the_bit(originals):
    store, sequential, _ = originals
    stage = Unlearning(sequential, spec(own_loader), 0, "paired")
    a, b = stage.make([0], store)[0], stage.make([1], store)[0]
    torch.rand(3)
    assert identical(a, stage.make([0], store)[0])
    assert not identical(a, b)


def test_hyper_parameters(originals, task):
    store, sequential, _ = originals
    stage = Unlearning(sequential, spec(with_extras, alpha=0.25, epochs=2), 0, "paired")
    assert set(unlearn(stage, [0], store, task).state()["13.bias"].tolist()) == {0.5}
    with pytest.raises(UserError, match="needs a value for alpha"):
        spec(with_extras).build()
    with pytest.raises(UserError, match=r"epoch.*did you mean epochs"):
        spec(with_extras, alpha=1, epoch=2).build()
    assert isinstance(spec(with_extras, alpha=1).build(), PlainFunction)


# --- what it must not do --------------------------------------------------------------------------------------------


def wider_head(net, retain_loader, forget_loader, val_loader):
    net[-1] = nn.Linear(8, 12)


def wrapped_head(net, retain_loader, forget_loader, val_loader):
    net[-1] = nn.Sequential(nn.Dropout(0.1), net[-1])


def another_layer(net, retain_loader, forget_loader, val_loader):
    return nn.Sequential(*net, nn.ReLU(), nn.Linear(10, 10))


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(
    ("function", "message"),
    [(wider_head, "changed '13.weight'"), (wrapped_head, "removed '13.weight'"), (another_layer, "added '15.weight'")],
)
def test_the_architecture_must_stay(originals, task, function, message, stacked):
    store, *stages = originals
    with pytest.raises(ValueError, match=f"{message}.*keep the architecture"):
        unlearn(Unlearning(stages[stacked], spec(function), 0, "paired"), [0], store, task)


# --- loaders --------------------------------------------------------------------------------------------------------

SEEN = {}


def looks(net, retain_loader, forget_loader, val_loader):
    SEEN.clear()
    SEEN["training"] = net.training
    for name, loader in (("retain", retain_loader), ("forget", forget_loader), ("valid", val_loader)):
        assert isinstance(loader, DataLoader)
        SEEN[name] = [(tuple(x.shape), y) for x, y in loader], [y for _, y in loader], len(loader.dataset)
    SEEN["batch"] = next(iter(forget_loader))


def test_loaders_hold_their_split(originals, task):
    store, sequential, _ = originals
    unlearn(Unlearning(sequential, spec(looks), 0, "paired"), [0], store, task)
    assert SEEN["training"] is True
    for name in ("retain", "forget", "valid"):
        batches, again, n = SEEN[name]
        labels = torch.cat([y for _, y in batches])
        assert n == len(labels) == len(task.splits[name])
        assert all(len(shape) == 4 and shape[0] <= 64 and shape[1:] == (1, 8, 8) for shape, _ in batches)
        assert sorted(labels.tolist()) == sorted(task.labels[task.splits[name]].tolist())
        assert not torch.equal(labels, torch.cat(again))  # shuffled anew in every pass
    batch = SEEN["batch"]
    assert isinstance(batch, Batch)
    assert torch.equal(batch["label"], batch["age_group"])
    assert {name: tensor.shape for name, tensor in batch.items()}.keys() == {"image", "age_group"}
    with pytest.raises(KeyError, match="person_id"):
        batch["person_id"]


def test_dropout_is_a_stream_of_the_models(task, tmp_path):
    store = Store(tmp_path)
    store.put_task(task)
    sequential, stacked = (training(task, model=DROPOUT_NET, stacked=stacked) for stacked in (False, True))
    put(store, sequential, [0, 1])
    for draw in (0, 1):
        store.put(stacked.key, draw, *store.get(sequential.key, draw))
    alone = [unlearn(Unlearning(sequential, spec(in_place), 0, "paired"), [d], store, task).state() for d in (0, 1)]
    together = unlearn(Unlearning(stacked, spec(in_place), 0, "paired"), [0, 1], store, task).state()
    for draw in (0, 1):
        assert max(differences(alone[draw], {n: t[draw] for n, t in together.items()}).values()) < 1e-9
