"""Sebastian: prune by magnitude, draw anew, fine-tune with an entropy tie, pass through half precision."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from harness.methods.sebastian import entropy, through_half_precision
from scipy.stats import kstest
from torch import nn

from harness.models import small_cnn
from harness.streams import Rng, global_seed
from tests.helpers import DROPOUT_NET, built_in, data_for, fresh, rng_for


def method(**changes):
    return built_in("sebastian", **changes).build()


def layers_of(net):
    return {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}


def with_biases():
    """Convolutions with biases too, and batch norm that is not at its start."""
    torch.manual_seed(3)
    net = small_cnn(classes=10, channels=3, widths=(16, 32, 64))
    for name in ("0", "4"):
        old = net.get_submodule(name)
        net[int(name)] = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1)
    net.train()
    with torch.no_grad():
        for _ in range(3):
            net(torch.randn(8, 3, 8, 8))
        for name in ("1", "5", "9"):
            net[int(name)].weight.uniform_(1e-6, 1e-5)  # small: would be pruned if they counted
            net[int(name)].bias.normal_(0, 1e-6)
    return net


@pytest.fixture(scope="module")
def surgery():
    net = with_biases()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with global_seed(0), torch.no_grad():
        method().prune_and_redraw(net)
    return net, before, net.state_dict()


def test_one_percent_of_largest_magnitude_is_kept(surgery):
    net, before, after = surgery
    names = [
        f"{layer}.{kind}" for layer in layers_of(net) for kind in ("weight", "bias") if f"{layer}.{kind}" in before
    ]
    old = torch.cat([before[name].flatten() for name in names])
    new = torch.cat([after[name].flatten() for name in names])
    kept = round(0.01 * len(old))
    assert int((old == new).sum()) == kept
    threshold = old.abs().sort(descending=True).values[kept - 1]
    assert torch.equal(old == new, old.abs() >= threshold)


def test_pruned_weights_are_uniform_within_the_fan_in_bound(surgery):
    net, before, after = surgery
    scaled = []
    for name, layer in layers_of(net).items():
        fan_in = nn.init._calculate_fan_in_and_fan_out(layer.weight)[0]
        redrawn = before[f"{name}.weight"] != after[f"{name}.weight"]
        scaled.append(after[f"{name}.weight"][redrawn] * fan_in**0.5)
        assert float(scaled[-1].abs().max()) <= 1
        assert float(scaled[-1].abs().max()) > 0.95
    assert kstest(torch.cat(scaled).double().numpy(), "uniform", (-1, 2)).pvalue > 1e-3


def test_pruned_biases_are_zero_and_kept_ones_stay(surgery):
    net, before, after = surgery
    for name, layer in layers_of(net).items():
        if layer.bias is not None:
            changed = before[f"{name}.bias"] != after[f"{name}.bias"]
            assert (after[f"{name}.bias"][changed] == 0).all()
            assert changed.any()


def test_batch_norm_is_untouched(surgery):
    _, before, after = surgery
    for name in before:
        if name.split(".")[0] in ("1", "5", "9"):
            assert torch.equal(before[name], after[name])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_any_share(share):
    net = with_biases()
    before = {name: t.clone() for name, t in net.state_dict().items()}
    with torch.no_grad():
        method(prune=share).prune_and_redraw(net)
    changed = sum(int((before[n] != t).sum()) for n, t in net.state_dict().items())
    total = sum(p.numel() for layer in layers_of(net).values() for p in layer.parameters())
    assert changed == round(share * total)


# --- fine-tuning ----------------------------------------------------------------------------------------------------


def spied(task, monkeypatch, *, stacked=False, **changes):
    models = fresh(task, [1, 2], stacked=stacked, model=DROPOUT_NET)
    models.train()
    calls = []
    step = models.step

    def spy(optimizer, loss, original, x, y):
        calls.append((optimizer, loss, original, x, y))
        step(optimizer, loss, original, x, y)

    monkeypatch.setattr(models, "step", spy)
    before = models.state()
    data = replace(data_for(task, rng_for(models, [1, 2])), forget=None, valid=None)  # neither is looked at
    method(**changes).unlearn(models, data, rng_for(models, [3, 4]))
    return models, before, calls


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize(("batch_size", "steps"), [(64, 3), (16, 9), (5, 28)])  # 1, 3 and 9 batches a pass, 3.2 passes
def test_steps_teacher_and_class_weights(task, monkeypatch, stacked, batch_size, steps):
    _, before, calls = spied(task, monkeypatch, stacked=stacked, batch_size=batch_size)
    assert len(calls) == steps
    counts = torch.bincount(torch.from_numpy(task.labels[task.splits["retain"]]), minlength=10).double()
    for optimizer, loss, original, _, _ in calls:
        torch.testing.assert_close(loss.keywords["weight"], counts.clamp(min=1) ** -0.1)
        assert all(torch.equal(original.state()[n], t) for n, t in before.items())  # as it was before the surgery
        group = optimizer.param_groups[0]
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (5e-4, 0.9, 5e-4)
    batches = torch.cat([y for *_, y in calls], -1).reshape(-1, sum(y.shape[-1] for *_, y in calls))
    one_pass = sorted(task.labels[task.splits["retain"]].tolist())
    assert all(sorted(row[:44].tolist()) == one_pass for row in batches)


def test_loss(task):
    generator = torch.Generator().manual_seed(0)
    new, old = (torch.randn(6, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    y, weight = torch.arange(6), torch.rand(10, generator=generator, dtype=torch.float64)
    found = method(entropy_weight=0.7).loss(lambda x: new, lambda x: old, None, y, weight)
    entropies = [[-sum(float(p) * float(p.log()) for p in row.softmax(-1)) for row in logits] for logits in (new, old)]
    tie = sum((a - b) ** 2 for a, b in zip(*entropies, strict=True)) / 6
    losses = [-float(row.log_softmax(-1)[label]) for row, label in zip(new, y, strict=True)]
    weighted = sum(float(weight[c]) * loss for c, loss in zip(y, losses, strict=True)) / float(weight[y].sum())
    assert float(found) == pytest.approx(weighted + 0.7 * tie, rel=1e-12)
    assert float(entropy(torch.zeros(1, 10))) == pytest.approx(float(torch.tensor(10.0).log()))
    assert float(F.cross_entropy(new, y, weight=weight)) == pytest.approx(weighted)


@pytest.mark.parametrize("half", [True, False])
def test_half_precision(task, monkeypatch, half):
    models, _, _ = spied(task, monkeypatch, half_precision=half)
    state = models.state()
    exact = all(torch.equal(state[n].half().to(state[n].dtype), state[n]) for n in models.parameters)
    assert exact is half
    running = state["1.running_mean"]
    assert not torch.equal(running.half().to(running.dtype), running)  # statistics are not weights
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(1 + 2**-12)
        through_half_precision(net)
    assert float(net.weight) == 1.0


def test_models_draw_weights_of_their_own(task):
    models = fresh(task, [1, 1], stacked=True)
    models.map_weights(method().prune_and_redraw, Rng([3, 4], stacked=True))
    assert float((models.state()["8.weight"][0] == models.state()["8.weight"][1]).double().mean()) < 0.1
