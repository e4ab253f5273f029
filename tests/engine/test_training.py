"""Every training option against an ordinary training loop on an ordinary module with the same batches."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from harness.engine import training
from harness.engine.batches import Augment
from harness.engine.dropout import use_streams
from harness.engine.losses import mse_one_hot
from harness.engine.training import train
from harness.engine.training_options import TrainingOptions
from harness.errors import UserError
from harness.streams import Rng
from tests.helpers import DROPOUT_NET, ENGINES, SMALL_CNN, differences, fresh, rng_for, split, tiny_options

both_engines = pytest.mark.parametrize("stacked", ENGINES.values(), ids=ENGINES)
EPOCHS, BATCH = 3, 16

RECIPES = {
    "sgd": {},
    "sgd without momentum": {"momentum": 0.0},
    "nesterov": {"nesterov": True, "weight_decay": 0.1},
    "adam": {"optimizer": "adam", "lr": 0.01, "weight_decay": 0.1},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
    "cosine": {"schedule": "cosine"},
    "one_cycle": {"schedule": "one_cycle"},
    "one_cycle adam": {"schedule": "one_cycle", "optimizer": "adam", "lr": 0.01},
    "balanced": {"class_weights": "balanced"},
    "mse": {"loss": "mse", "lr": 0.01},
    "balanced mse": {"loss": "mse", "class_weights": "balanced", "lr": 0.01},
    "augmented": {"flip": True, "crop": 2},
    "flip": {"flip": True},
    "l2_to_initial": {"l2_to_initial": 0.3},
    "l2_to_initial adam": {"l2_to_initial": 0.3, "optimizer": "adam", "lr": 0.01},
    "freeze_batch_norm": {"freeze_batch_norm": True},
    "head": {"trainable": "head"},
    "bn and head": {"trainable": "bn+head", "l2_to_initial": 0.3},
}


def trained(task, options, seeds, *, stacked, model=SMALL_CNN):
    models = fresh(task, seeds, stacked=stacked, model=model, precision=options.precision)
    use_streams(models, rng_for(models, seeds))
    order = rng_for(models, seeds)
    dtype = options.dtype
    train(models, split(task, "retain", order, dtype), split(task, "valid", order, dtype), task.classes, options)
    return models


def by_hand(task, options, seed):
    """The same training as an ordinary loop."""
    net = fresh(task, [seed], stacked=False).template.train()
    if options.freeze_batch_norm:
        for i in (1, 5, 9):
            net[i].eval()
    prefixes = {"all": ("",), "head": ("13.",), "bn+head": ("1.", "5.", "9.", "13.")}[options.trainable]
    parameters = [p for name, p in net.named_parameters() if name.startswith(prefixes)]
    start = [p.detach().clone() for p in parameters]
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    if options.optimizer == "sgd":
        sgd = {"momentum": options.momentum, "nesterov": options.nesterov}
        optimizer = torch.optim.SGD(parameters, options.lr, weight_decay=options.weight_decay, **sgd)
    else:
        optimizer = kinds[options.optimizer](parameters, options.lr, weight_decay=options.weight_decay)
    rates = learning_rates(options)
    labels = torch.from_numpy(task.labels[task.splits["retain"]])
    weight = None
    if options.class_weights == "balanced":
        weight = torch.tensor(
            [1 / n if (n := int((labels == c).sum())) else 0.0 for c in range(10)], dtype=torch.float64
        )
    data = split(task, "retain", Rng([seed], stacked=False))
    augment = Augment(options.flip, options.crop) if options.flip or options.crop else None
    for _ in range(options.epochs):
        for x, y in data.batches(options.batch_size, augment=augment):
            optimizer.param_groups[0]["lr"] = next(rates)
            logits = net(x)
            if options.loss == "mse":
                losses = [((logits[i] - F.one_hot(y[i], 10)) ** 2).sum() / 2 for i in range(len(y))]
                w = torch.ones(len(y)) if weight is None else weight[y]
                loss = sum(w[i] * losses[i] for i in range(len(y))) / w.sum()
            else:
                loss = F.cross_entropy(logits, y, weight=weight)
            for p, p_0 in zip(parameters, start, strict=True):
                loss = loss + options.l2_to_initial / 2 * (p - p_0).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net


def learning_rates(options, steps=3):
    """The learning rate of every step, in closed form (one_cycle: Smith & Topin as in torch, 30 % up, from lr/25 to lr/25e4)."""
    total = options.epochs * steps
    for step in range(total):
        if options.schedule == "constant":
            yield options.lr
        elif options.schedule == "cosine":
            yield options.lr * (1 + math.cos(math.pi * (step // steps) / options.epochs)) / 2
        else:
            peak = 0.3 * total - 1
            if step <= peak:
                start, end, share = options.lr / 25, options.lr, step / peak
            else:
                start, end, share = options.lr, options.lr / 25e4, (step - peak) / (total - 1 - peak)
            yield end + (start - end) * (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_equals_an_ordinary_loop(task, name):
    options = tiny_options(epochs=EPOCHS, batch_size=BATCH, **RECIPES[name])
    sequential = trained(task, options, [1], stacked=False)
    expected = by_hand(task, options, 1).state_dict()
    assert max(differences(sequential.state(), expected).values()) < 1e-10
    stacked = trained(task, options, [1, 2], stacked=True).state()
    assert max(differences({n: t[0] for n, t in stacked.items()}, sequential.state()).values()) < 1e-9
    assert not torch.equal(stacked["13.weight"][0], stacked["13.weight"][1])


def test_the_recipes_above_differ(task):
    """Each option does something: no two of them give the same weights."""
    found = {
        name: trained(task, tiny_options(epochs=EPOCHS, **changes), [1], stacked=False).state()["13.weight"]
        for name, changes in RECIPES.items()
    }
    names = list(found)
    for i, a in enumerate(names):
        for b in names[:i]:
            assert float((found[a] - found[b]).abs().max()) > 1e-5, (a, b)


@both_engines
@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
def test_learning_rate_of_every_step(task, stacked, schedule, monkeypatch):
    options = tiny_options(schedule=schedule, epochs=4, lr=0.3)
    models = fresh(task, [1, 2], stacked=stacked)
    seen = []
    apply = models.apply
    monkeypatch.setattr(
        models, "apply", lambda optimizer, g: (seen.append(optimizer.param_groups[0]["lr"]), apply(optimizer, g))
    )
    data = split(task, "retain", rng_for(models, [1, 2]))
    train(models, data, data, 10, options)
    assert seen == pytest.approx(list(learning_rates(options)), abs=1e-12)
    assert len(seen) == 4 * 3


def test_mse_in_closed_form():
    logits = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    y = torch.tensor([1, 0])
    net = lambda x: x  # noqa: E731
    assert float(mse_one_hot(net, logits, y)) == pytest.approx(((1 + 1) / 2 + (1 + 1) / 2) / 2)
    weight = torch.tensor([3.0, 1.0])
    second = torch.tensor([[1.0, 2.0], [2.0, -1.0]])
    assert float(mse_one_hot(net, second, y, weight)) == pytest.approx((1 * 1.0 + 3 * 1.0) / 4)
    third = torch.tensor([[1.0, 2.0], [3.0, 0.0]])  # 1 and 2, weights 1 and 3
    assert float(mse_one_hot(net, third, y, weight)) == pytest.approx((1 * 1.0 + 3 * 2.0) / 4)


# --- checkpoints ----------------------------------------------------------------------------------------------------


@both_engines
@pytest.mark.parametrize("first", [0, 3])
def test_best_checkpoint(task, stacked, first):
    """Each model ends as it was after its own best epoch on valid (the earliest of equals) from ``first`` on."""
    seeds, epochs = ([1, 2, 3, 4], 6) if stacked else ([3], 6)
    x, y = split(task, "valid", Rng([0], stacked=False)).tensors()
    sgd = {"lr": 0.4, "weight_decay": 0.0}
    states, accuracies = [], []
    for n in range(1, epochs + 1):
        models = trained(task, tiny_options(epochs=n, **sgd), seeds, stacked=stacked)
        states.append(models.state())
        accuracies.append((models.logits(x).argmax(-1) == y).double().mean(-1).reshape(-1))
    table = torch.stack(accuracies)[first:]  # [epochs, models]
    best = [first + max(range(len(table)), key=lambda e: (float(table[e, m]), -e)) for m in range(len(seeds))]
    assert min(best) < epochs - 1  # else the test says nothing
    assert not stacked or len(set(best)) > 1
    options = tiny_options(epochs=epochs, checkpoint="best", checkpoint_from=first, **sgd)
    result = trained(task, options, seeds, stacked=stacked).state()
    for m, epoch in enumerate(best):
        for name, tensor in result.items():
            expected = states[epoch][name]
            assert torch.equal(tensor[m] if stacked else tensor, expected[m] if stacked else expected), (m, name)


def test_valid_is_not_looked_at_otherwise(task):
    models = fresh(task, [1], stacked=False)
    train(models, split(task, "retain", rng_for(models, [1])), None, 10, tiny_options(epochs=1))


# --- what moves -----------------------------------------------------------------------------------------------------

SUBSETS = {
    ("small_cnn", "all"): {"0", "1", "4", "5", "8", "9", "13"},
    ("small_cnn", "bn"): {"1", "5", "9"},
    ("small_cnn", "head"): {"13"},
    ("small_cnn", "bn+head"): {"1", "5", "9", "13"},
    ("dropout", "bn"): {"1"},
    ("dropout", "head"): {"9"},
}


@both_engines
@pytest.mark.parametrize(("name", "subset"), SUBSETS)
def test_only_the_chosen_parameters_move(task, stacked, name, subset):
    spec = {"small_cnn": SMALL_CNN, "dropout": DROPOUT_NET}[name]
    before = fresh(task, [1, 2], stacked=stacked, model=spec).state()
    models = trained(task, tiny_options(trainable=subset, weight_decay=0.1), [1, 2], stacked=stacked, model=spec)
    moved = {n.split(".")[0] for n in models.parameters if not torch.equal(models.state()[n], before[n])}
    if stacked:
        assert all(
            (models.state()[n][m] != before[n][m]).any()
            for n in models.parameters
            for m in (0, 1)
            if n.split(".")[0] in moved
        )
    assert moved == SUBSETS[name, subset]
    x, y = next(split(task, "retain", rng_for(models, [1, 2])).batches(8))
    loss = lambda net, x, y: F.cross_entropy(net(x), y)  # noqa: E731
    assert set(models.gradients(loss, x, y)) == set(models.parameters)  # and all are free again


@both_engines
def test_freeze_batch_norm_keeps_running_statistics(task, stacked):
    before = fresh(task, [1, 2], stacked=stacked).state()
    after = trained(task, tiny_options(freeze_batch_norm=True), [1, 2], stacked=stacked).state()
    assert all(torch.equal(after[n], before[n]) for n in after if "running" in n or "tracked" in n)
    assert not torch.equal(after["1.weight"], before["1.weight"])
    moving = trained(task, tiny_options(), [1, 2], stacked=stacked).state()
    assert not torch.equal(moving["1.running_mean"], before["1.running_mean"])


CPU_STACKED_BF16 = pytest.mark.xfail(
    raises=RuntimeError,
    strict=True,
    reason="torch's batch norm takes no bf16 images with float32 statistics under vmap on a CPU",
)


@pytest.mark.parametrize("stacked", [False, pytest.param(True, marks=CPU_STACKED_BF16)], ids=ENGINES)
def test_bf16(task, stacked):
    bf16 = trained(task, tiny_options(precision="bf16"), [1, 2], stacked=stacked)
    full = trained(task, tiny_options(precision="float32"), [1, 2], stacked=stacked)
    a, b = bf16.state(), full.state()
    assert all(a[n].dtype == torch.float32 for n in bf16.parameters)
    gap = max(differences(a, b).values())
    assert 1e-6 < gap < 0.2
    x = split(task, "test", Rng([0], stacked=False), torch.float32).tensors()[0]
    assert bf16.logits(x).dtype == torch.float32
    assert torch.isfinite(bf16.logits(x)).all()


@pytest.mark.parametrize(("precision", "dtype"), [("float64", torch.float64), ("float32", torch.float32)])
def test_precision(task, precision, dtype):
    state = trained(task, tiny_options(precision=precision), [1], stacked=False).state()
    assert {t.dtype for t in state.values()} == {dtype, torch.int64}


# --- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"optimizer": "sdg"}, "unknown train.optimizer 'sdg': did you mean sgd"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"loss": "cross_entropi"}, "did you mean cross_entropy"),
        ({"trainable": "heads"}, "did you mean head"),
        ({"precision": "fp8"}, "known: bf16, float32, float64|did you mean"),
        ({"learning_rate": 0.1}, "unknown key 'train.learning_rate'"),
        ({"epoch": 3}, "did you mean epochs"),
        ({"epochs": 0}, "train.epochs=0: expected at least 1"),
        ({"batch_size": 0}, "train.batch_size=0"),
        ({"lr": -0.1}, "train.lr=-0.1"),
        ({"weight_decay": -1.0}, "train.weight_decay"),
        ({"l2_to_initial": -1.0}, "train.l2_to_initial"),
        ({"checkpoint": "best", "checkpoint_from": 10, "epochs": 10}, "train.checkpoint_from=10: expected 0 to 9"),
        ({"checkpoint": "best", "checkpoint_from": -1}, "train.checkpoint_from=-1"),
        ({"epochs": "many"}, "train.epochs=many"),
        ({"flip": "yes"}, "train.flip=yes"),
    ],
)
def test_bad_values(node, message):
    with pytest.raises(UserError, match=message):
        TrainingOptions.read(node, "train")


def test_identity_leaves_out_defaults_and_holds_everything_else():
    assert TrainingOptions().identity == {}
    changes = {
        "optimizer": "adam", "lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": 0.1, "schedule": "cosine",
        "epochs": 3, "batch_size": 8, "class_weights": "balanced", "flip": True, "crop": 1, "loss": "mse",
        "checkpoint": "best", "checkpoint_from": 1, "retrained_checkpoint_from": 2, "trainable": "head",
        "freeze_batch_norm": True, "l2_to_initial": 0.1, "precision": "bf16",
    }  # fmt: skip
    assert set(changes) == set(TrainingOptions.model_fields)
    for name, value in changes.items():
        others = {"epochs": 3} if name == "checkpoint_from" else {}
        assert TrainingOptions(**({name: value} | others)).identity[name] == value


def test_class_weights_of_absent_classes_are_zero(task):
    data = split(task, "retain", Rng([0], stacked=False))
    loss = training._loss(data, 12, tiny_options(class_weights="balanced"))
    counts = data.label_counts(12)
    assert loss.keywords["weight"].tolist() == pytest.approx([1 / n if n else 0.0 for n in counts.tolist()])
    assert loss.keywords["weight"][10:].tolist() == [0.0, 0.0]


def test_training_starts_from_the_weights_there_are(task):
    models = fresh(task, [1], stacked=False)
    order = rng_for(models, [1])
    data = split(task, "retain", order)
    train(models, data, data, 10, tiny_options(epochs=1, lr=0.0, weight_decay=0.0))
    expected = copy.deepcopy(fresh(task, [1], stacked=False).state())
    assert all(torch.equal(models.state()[n], expected[n]) for n in models.parameters)
