"""The surgery that makes a method, seen through ``unlearn`` itself: at rate zero nothing else moves a weight."""

import math

import pytest
import torch
from harness.methods.surgery import convolutions, names_in
from torch import nn

from harness.models import head
from tests.methods.tiny_task import built, one

WIDE = {"_target_": "harness.models.small_cnn", "widths": [16, 24, 32]}
STILL = {"lr": 0.0, "weight_decay": 0.0}


def before_and_after(name, *, model=WIDE, **settings):
    """Parameters before and after a method that takes no steps, and the network."""
    models, data, rng = one(model=model)
    models.train()
    before = {n: p.detach().clone() for n, p in models.parameters.items()}
    built(name, **settings).unlearn(models, data, rng)
    return before, {n: p.detach() for n, p in models.parameters.items()}, models.template


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


def weights_of(net, *layers):
    """Names of the parameters of these layers."""
    wanted = {id(p) for layer in layers for p in layer.parameters()}
    return {name for name, p in net.named_parameters() if id(p) in wanted}


def test_a_method_at_rate_zero_moves_nothing_by_its_steps():
    before, after, _ = before_and_after("finetune", **STILL)
    assert changed(before, after) == set()


def test_kookmin_redraws_thirty_percent_of_each_kernel_from_the_constructors_normal():
    before, after, net = before_and_after("kookmin", **STILL)
    kernels = {name for name in names_in(net, nn.Conv2d) if name.endswith("weight")}
    assert changed(before, after) == kernels
    for name in kernels:
        fresh = after[name][after[name] != before[name]]
        assert len(fresh) == round(0.3 * before[name].numel())
        expected = math.sqrt(2 / (before[name].shape[0] * 9))  # fan_out of a 3×3 kernel
        assert fresh.std().item() == pytest.approx(expected, rel=0.25)
        assert abs(fresh.mean().item()) < 3 * expected / math.sqrt(len(fresh))


def test_kookmin_scores_as_many_retain_as_forget_images():
    models, data, rng = one()
    asked, draw = [], data.retain.random_subset
    data.retain.random_subset = lambda n: asked.append(n) or draw(n)
    built("kookmin", epochs=1).unlearn(models, data, rng)
    assert asked == [len(data.forget)]


def test_sebastian_keeps_the_largest_percent_and_redraws_the_rest():
    before, after, net = before_and_after("sebastian", **STILL)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    names = weights_of(net, *layers)
    old, new = (torch.cat([state[name].flatten() for name in sorted(names)]) for state in (before, after))
    kept = new == old.half().double()
    assert int(kept.sum()) == pytest.approx(0.01 * len(old), abs=2)
    assert old[kept].abs().min() >= old[~kept].abs().max()
    for layer in layers:
        bound = layer.weight[0].numel() ** -0.5
        (weight,) = (name for name, p in net.named_parameters() if p is layer.weight)
        fresh = after[weight][after[weight] != before[weight].half().double()]
        assert fresh.abs().max() <= bound * 1.001
        assert fresh.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_amnesiacs_resets_both_ends_and_nothing_else():
    before, after, net = before_and_after("amnesiacs", warm_up_lr=0.0, repair_lr=0.0, weight_decay=0.0)
    assert changed(before, after) == weights_of(net, convolutions(net)[0], head(net))


def test_forget_reinitialises_up_to_six_tensors_in_each_cycle():
    before, after, net = before_and_after("forget", **STILL, cycles=[1])
    once = changed(before, after)
    assert 1 <= len(once) <= 6
    assert not once & weights_of(net, head(net))
    before, after, _ = before_and_after("forget", **STILL, cycles=[1, 1, 1])
    assert len(changed(before, after)) > len(once)
    before, after, _ = before_and_after("forget", **STILL, tensors=0)
    assert changed(before, after) == set()


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_forget_remembers_on_noisy_images(noise):
    models, data, rng = one()
    seen, step = [], models.step
    models.step = lambda optimizer, loss, original, x: seen.append(x.clone()) or step(optimizer, loss, original, x)
    built("forget", noise=noise, cycles=[1], batch_size=40).unlearn(models, data, rng)
    (x,) = seen
    images = data.retain.tensors()[0]
    nearest = (x[:, None] - images[None]).flatten(2).square().mean(-1).min(1).values.sqrt()
    assert nearest.mean().item() == pytest.approx(noise, abs=0.05)


def test_random_mask_zeroes_half_of_every_tensor_that_is_no_norm():
    before, after, net = before_and_after("random_mask", **STILL)
    norms = set(names_in(net, nn.BatchNorm2d))
    assert changed(before, after).isdisjoint(norms)
    for name in set(before) - norms:
        gone = after[name] == 0
        assert int(gone.sum()) == round(0.5 * before[name].numel())
        assert torch.equal(after[name][~gone], before[name][~gone])


def test_sun_resets_the_head_and_disturbs_six_tensors_an_epoch_from_the_second_on():
    still = {"lr": 0.0, "weight_decay": 0.0, "fine_lr": [0.0]}
    before, after, net = before_and_after("sun", **still, partial_epochs=1)
    top = weights_of(net, head(net))
    assert changed(before, after) == top
    before, after, _ = before_and_after("sun", **still, partial_epochs=2, selected=3)
    moved = changed(before, after) - top
    norms = set(names_in(net, nn.BatchNorm2d))
    assert moved <= set(before) - norms - top
    assert len(moved) <= int(0.7 * 3)
    before, after, _ = before_and_after("sun", **still, partial_epochs=12, selected=1, noisy_share=1.0)
    large = [name for name in changed(before, after) - top if after[name].numel() > 1000]
    assert large
    for name in large:  # however often it was chosen, noise came once
        assert (after[name] - before[name]).std().item() == pytest.approx(0.04, rel=0.1)
    before, after, _ = before_and_after("sun", **still, partial_epochs=5)  # a pool of five is chosen whole at once
    assert changed(before, after) == top


@pytest.mark.parametrize("whole", [False, True])
def test_suns_first_epoch_trains_the_whole_model_on_demand(whole):
    models, data, rng = one(model=WIDE)
    before = {n: p.detach().clone() for n, p in models.parameters.items()}
    settings = {"partial_epochs": 1, "fine_lr": [], "selected": 2, "lr": 0.1, "whole_first_epoch": whole}
    built("sun", **settings).unlearn(models, data, rng)
    still = set(before) - changed(before, models.parameters)
    assert (len(still) == 0) is whole


@pytest.mark.parametrize(("name", "wrong_only"), [(n, w) for n in ("random_labels", "salun") for w in (False, True)])
def test_labels_of_forget_images_are_drawn_at_random(name, wrong_only):
    """Over many passes the true label is met once in three draws of three classes, or never."""
    models, data, rng = one()
    true = {image.numpy().tobytes(): label for image, label in zip(*data.forget.tensors(), strict=True)}
    right, gradients = [], models.gradients

    def spy(loss, x, y):
        known = [(true.get(image.contiguous().numpy().tobytes()), label) for image, label in zip(x, y, strict=True)]
        right.extend(bool(label == expected) for expected, label in known if expected is not None)
        return gradients(loss, x, y)

    models.gradients = spy
    built(name, wrong_only=wrong_only, epochs=30, **STILL).unlearn(models, data, rng)
    right = right[-30 * len(true) :]  # before them, SalUn's pass for its mask
    assert len(right) == 30 * len(true)
    assert sum(right) / len(right) == pytest.approx(0.0 if wrong_only else 1 / 3, abs=0.0 if wrong_only else 0.09)


def test_sfron_ascends_in_the_masked_weights_only_and_ever_less():
    models, data, rng = one()
    method = built("sfron", epochs=4, forget_every=1, batch_size=40, weight_decay=0.0)
    mask = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in models.parameters.items()}
    mask["0.weight"][0] = True
    method.mask = lambda *_: mask
    applied, alphas, ascent = [], [], method.ascent
    method.ascent = lambda net, x, y, alpha: alphas.append(alpha) or ascent(net, x, y, alpha)
    apply = models.apply
    models.apply = lambda optimizer, gradients: applied.append(gradients) or apply(optimizer, gradients)
    method.unlearn(models, data, rng)
    for gradients in applied[::2]:  # every other update is the step on retain
        assert gradients["0.weight"][0].abs().max() > 0
        assert not gradients["0.weight"][1:].any()
        assert not any(g.any() for name, g in gradients.items() if name != "0.weight")
    assert alphas == pytest.approx([25 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])
