"""Boundary shrink, UNSIR, SFRon, DELETE: what makes each the method it is."""

import math

import pytest
import torch
import torch.nn.functional as F
from harness.methods.divergence import without

from harness.engine.losses import cross_entropy
from harness.errors import NotApplicable
from tests.methods.tiny_task import built, constants, data_of, ensemble, one, rng_of, tiny_task


def test_the_constants_are_the_sources():
    assert constants("boundary_shrink") == {
        "bound": 0.1,
        "epochs": 10,
        "lr": 1e-5,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "batch_size": 64,
    }
    found = constants("unsir")
    assert (found["noise_lr"], found["noise_steps"], found["noise_penalty"]) == (0.1, 40, 0.1)
    assert (found["impair_lr"], found["repair_lr"], found["batch_size"]) == (0.02, 0.01, 256)
    assert (found["noise_images"] * found["noise_copies"], found["retain_per_class"]) == (5120, 1000)
    found = constants("sfron")
    assert (found["alpha"], found["adaptivity"], found["threshold"]) == (25.0, 0.5, 1.0)
    assert (found["forget_every"], found["max_norm"], found["lr"], found["batch_size"]) == (5, 7.0, 0.01, 128)
    assert round(found["epochs"] * math.ceil(40_500 / 128)) == pytest.approx(1500, abs=1)
    found = constants("delete")
    assert (found["epochs"], found["lr"], found["momentum"], found["batch_size"]) == (20, 1e-4, 0.9, 128)


def test_the_nearest_class_is_found_one_step_uphill():
    models, data, _ = one()
    x, y = data.forget.tensors()
    method = built("boundary_shrink", bound=0.7)
    net = models.snapshot().template
    pixels = x.clone().requires_grad_()
    (uphill,) = torch.autograd.grad(F.cross_entropy(net(pixels), y), pixels)
    expected = net(x + 0.7 * uphill.sign()).argmax(-1)
    assert torch.equal(method.nearest(net, x, y), expected)
    assert F.cross_entropy(net(x + 0.7 * uphill.sign()), y) > F.cross_entropy(net(x), y)
    loss = method.loss(net, net, x, y)
    assert loss.item() == pytest.approx(F.cross_entropy(net(x), expected).item())


def test_unsir_does_not_apply_to_a_random_forget_set():
    models, data, rng = one()
    with pytest.raises(NotApplicable, match="whole class"):
        built("unsir").unlearn(models, data, rng)


def test_unsirs_noise_raises_the_error_of_the_class():
    task = tiny_task(whole_class=True)
    models = ensemble(task, [0, 1], stacked=True)
    data = data_of(task, [0, 1], stacked=True)
    method = built("unsir", noise_images=6, noise_penalty=0.0, noise_steps=100)
    before = models.state()
    noise = method.learn_noise(models, data, 0, rng_of([0, 1], stacked=True))
    assert noise.shape == (2, 6, 1, 8, 8)
    assert all(torch.equal(before[n], t) for n, t in models.state().items())
    fresh = torch.randn(6, 1, 8, 8, dtype=torch.float64)

    def error(images, m):
        return F.cross_entropy(models.logits(images)[m], torch.zeros(6, dtype=torch.int64)).item()

    assert all(error(noise[m], m) > error(fresh, m) for m in range(2))
    small = built("unsir", noise_images=6, noise_penalty=10.0).learn_noise(
        models, data, 0, rng_of([0, 1], stacked=True)
    )
    assert small.square().sum() < noise.square().sum()


def test_unsir_impairs_on_noise_and_retain_and_repairs_on_retain():
    models, data, rng = one(task=tiny_task(whole_class=True))
    seen = []
    models.step = lambda optimizer, loss, *batch: seen.append((optimizer.param_groups[0]["lr"], batch))
    built("unsir", retain_per_class=10, noise_images=4, noise_copies=5, batch_size=10).unlearn(models, data, rng)
    impair = [batch for lr, batch in seen if lr == 0.02]
    repair = [batch for lr, batch in seen if lr == 0.01]
    assert sum(len(x) for x, *_ in impair) == sum(len(x) for x, *_ in repair) == 20
    assert sum(len(noise) for _, _, noise, _ in impair) == 20  # 4 images × 5 copies for 2 classes × 10
    assert all((labels == 0).all() for *_, labels in impair)
    assert not any((y == 0).any() for _, y, *_ in impair + repair)


def test_sfrons_mask_compares_forget_with_retain():
    models, data, _ = one()
    mask = built("sfron", threshold=2.0).mask(models, data)["4.weight"]
    models.eval()
    of = {
        name: models.gradients(cross_entropy, *split.tensors())["4.weight"] ** 2
        for name, split in (("forget", data.forget), ("retain", data.retain))
    }
    assert torch.equal(mask, (of["forget"] + 1e-15) / (of["retain"] + 1e-15) >= 2)
    assert 0 < mask.double().mean() < 1


def test_sfron_weighs_examples_by_the_inverse_of_their_loss():
    logits = torch.tensor([[3.0, 0.0], [0.0, 0.0]], requires_grad=True)
    y = torch.tensor([0, 0])
    each = F.cross_entropy(logits, y, reduction="none").detach()
    weight = each**-0.5 / (each**-0.5).sum()
    found = built("sfron").ascent(lambda x: logits, logits, y, alpha=2.0)
    assert found.item() == pytest.approx(-2 * (weight * each).sum().item())


def test_sfron_ascends_every_fifth_step_and_never_beyond_the_norm():
    models, data, rng = one()
    sizes = []
    apply = models.apply
    models.apply = lambda optimizer, g: (
        sizes.append(torch.stack([v.square().sum() for v in g.values()]).sum().sqrt().item()),
        apply(optimizer, g),
    )[1]
    built("sfron", epochs=6, batch_size=20, max_norm=1e-3).unlearn(models, data, rng)
    ascents = [i for i, size in enumerate(sizes) if size <= 1e-3]
    assert len(sizes) == 12 + 3
    assert ascents == [0, 6, 12]


def test_delete_targets_the_original_without_the_true_class():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    y = torch.tensor([0])
    target = F.softmax(without(logits, y), -1)
    assert target[0].tolist() == pytest.approx([0, math.e / (1 + math.e), 1 / (1 + math.e)])
    student = torch.tensor([[0.3, -0.2, 0.1]])
    found = built("delete").loss(lambda x: student, lambda x: logits, student, y)
    log_p = F.log_softmax(student, -1)[0]
    expected = sum(t * (t.log() - log_p[c]) for c, t in enumerate(target[0]) if t > 0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_delete_can_leave_the_running_statistics():
    for frozen in (False, True):
        models, data, rng = one()
        before = models.buffers["1.running_mean"].clone()
        built("delete", epochs=1, freeze_batch_norm=frozen).unlearn(models, data, rng)
        assert torch.equal(before, models.buffers["1.running_mean"]) == frozen
