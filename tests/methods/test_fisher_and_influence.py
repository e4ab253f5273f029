"""The methods that weigh parameters by second-order information, against slow literal versions."""

import pytest
import torch
import torch.nn.functional as F

from harness.engine.losses import cross_entropy
from tests.methods.tiny_task import built, constants, data_of, ensemble, one, rng_of, tiny_task


def gradient_of(net, loss):
    return torch.autograd.grad(loss, list(net.parameters()))


def test_the_constants_are_the_sources():
    assert constants("fisher")["alpha"] == 1e-6
    found = constants("influence")
    assert (found["alpha"], found["samples"]) == (0.2, 1000)


def test_gradients_of_single_examples():
    task = tiny_task()
    models = ensemble(task, [0, 1], stacked=True)
    x, y = next(iter(data_of(task, [0, 1], stacked=True).retain.batches(5)))
    with pytest.raises(RuntimeError, match="evaluation mode"):
        models.example_gradients(cross_entropy, x, y)
    models.eval()
    each = models.example_gradients(cross_entropy, x, y)
    mean = models.gradients(cross_entropy, x, y)
    assert each["4.weight"].shape == (2, 5, 4, 4, 3, 3)
    assert all(torch.allclose(g.mean(1), mean[name]) for name, g in each.items())


def test_the_fisher_information_is_that_of_a_loop_over_images_and_classes():
    models, data, _ = one()
    found = built("fisher", chunk=7).fisher(models, data)
    net = models.template.eval()
    expected = [torch.zeros_like(p) for p in net.parameters()]
    for x in data.retain.tensors()[0]:
        log_p = F.log_softmax(net(x[None])[0], -1)
        for label in range(3):
            found_here = torch.autograd.grad(log_p[label], list(net.parameters()), retain_graph=True)
            for total, g in zip(expected, found_here, strict=True):
                total += log_p[label].exp().detach() * g**2 / 40
    for (name, _), value in zip(net.named_parameters(), expected, strict=True):
        assert torch.allclose(found[name], value, rtol=1e-6, atol=1e-14), name


def test_the_noise_has_the_sources_variance():
    models, data, rng = one()
    method = built("fisher", alpha=1e-3)
    information = {name: torch.full_like(p, 0.5) for name, p in models.parameters.items()}
    information["4.weight"] = torch.full_like(information["4.weight"], 1e-12)
    information["13.weight"] = torch.full_like(information["13.weight"], 1e-12)
    seen = {}
    method.fisher = lambda models, data: information
    method.disturb = lambda net, deviation, last, forgotten: seen.update(deviation)
    method.unlearn(models, data, rng)
    variance = {name: (d**2).flatten()[0].item() for name, d in seen.items()}
    assert variance["0.weight"] == pytest.approx(1e-3 * 2, rel=1e-6)
    assert variance["4.weight"] == pytest.approx(1e-3 * 1e3)  # clamped
    assert variance["13.weight"] == pytest.approx(1e-3 * 1e2 * 10)  # the head's clamp and factor
    assert variance["1.weight"] == pytest.approx(1e-3 * 2 * 10, rel=1e-6)


def test_variances_are_averaged_over_inputs_and_a_forgotten_class_loses_its_row():
    models, data, rng = one(task=tiny_task(whole_class=True))
    assert data.forgotten_class == 0
    seen = {}
    method = built("fisher")
    disturb = method.disturb
    method.disturb = lambda net, deviation, *a: (seen.update(deviation), disturb(net, deviation, *a))
    method.unlearn(models, data, rng)
    assert torch.allclose(seen["4.weight"], seen["4.weight"][:, :1].expand_as(seen["4.weight"]))
    assert torch.allclose(seen["13.weight"][0] ** 2, torch.tensor(1e-3, dtype=torch.float64))
    assert models.parameters["13.weight"][0].abs().max() < 5 * 1e-3**0.5


def test_influence_is_the_published_recursion():
    models, data, rng = one()
    method = built("influence", samples=30, chunk=8, alpha=0.3)
    net = models.template
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.eval()

    def flat(loss):
        return torch.cat([g.flatten() for g in gradient_of(net, loss)])

    (x_f, y_f), (x_r, y_r) = data.forget.tensors(), data.retain.tensors()
    v = flat(F.cross_entropy(net(x_f), y_f, reduction="sum")) / 52
    v = v - flat(F.cross_entropy(net(x_r), y_r, reduction="sum")) * 12 / (52 * 40)
    k, o = v.clone(), None
    for i in range(30):
        g = flat(F.cross_entropy(net(x_r[i : i + 1]), y_r[i : i + 1]))
        if o is None:
            o = g.clone()
        else:
            overlap = o @ g
            k -= (k @ g) / (30 + overlap) * o
            o -= overlap / (30 + overlap) * o
    method.unlearn(models, data, rng)
    moved = torch.cat([(p.detach() - before[n]).flatten() for n, p in net.named_parameters()])
    assert torch.allclose(moved, 0.3 * k, rtol=1e-6, atol=1e-12)
    assert not torch.allclose(moved, 0.3 * v)


def test_both_work_on_a_stack():
    task = tiny_task()
    for name in ("fisher", "influence"):
        models = ensemble(task, [0, 1], stacked=True)
        built(name).unlearn(models, data_of(task, [0, 1], stacked=True), rng_of([0, 1], stacked=True))
        assert models.template.training
