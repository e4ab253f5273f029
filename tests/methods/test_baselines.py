"""The baselines of the literature: what makes each the method it is."""

import pytest
import torch
import torch.nn.functional as F
from harness.methods.divergence import distillation
from harness.methods.gradients import clipped
from harness.methods.random_labels import drawn
from harness.methods.salun import saliency
from harness.methods.surgery import last_names

from harness.engine.losses import cross_entropy
from harness.streams import Rng
from tests.methods.tiny_task import SMALL, built, constants, data_of, ensemble, one, plain, rng_of, tiny_task

CONSTANTS = {
    "neggrad_plus": {"alpha": 0.9999, "epochs": 5, "lr": 0.01, "momentum": 0.0, "weight_decay": 0.0}
    | {"retain_batch_size": 32, "forget_batch_size": 16},
    "random_labels": {"wrong_only": False, "epochs": 10, "lr": 0.013, "momentum": 0.9, "weight_decay": 5e-4}
    | {"batch_size": 256},
    "bad_teacher": {"retain_share": 0.3, "temperature": 1.0, "epochs": 1, "lr": 1e-4, "batch_size": 256},
    "scrub": {"gamma": 1.0, "alpha": 0.5, "temperature": 4.0, "ascent_epochs": 3, "epochs": 5, "lr": 5e-4}
    | {"decay_after": 3, "momentum": 0.9, "weight_decay": 5e-4, "retain_batch_size": 32, "forget_batch_size": 16}
    | {"rewind": False},
    "l1_sparse": {"alpha": 5e-4, "epochs": 10, "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 256},
    "salun": {"density": 0.5, "wrong_only": False, "epochs": 10, "lr": 0.013, "momentum": 0.9, "weight_decay": 5e-4}
    | {"batch_size": 256},
    "ssd": {"alpha": 10.0, "dampening": 1.0, "batch_size": 128},
    "cf_k": {"k": 1, "epochs": 30, "lr": 0.1, "lr_end": 5e-3, "momentum": 0.9, "weight_decay": 5e-5}
    | {"max_norm": 10.0, "batch_size": 64},
    "eu_k": {"k": 1, "epochs": 62, "lr": 0.1, "lr_end": 5e-3, "momentum": 0.9, "weight_decay": 5e-5}
    | {"max_norm": 10.0, "batch_size": 64},
}


@pytest.mark.parametrize("name", CONSTANTS)
def test_the_constants_are_the_sources(name):
    assert constants(name) == CONSTANTS[name]


def test_neggrad_plus_weighs_descent_against_ascent():
    models, data, _ = one()
    models.eval()
    (x_r, y_r), (x_f, y_f) = data.retain.tensors(), data.forget.tensors()
    found = models.gradients(built("neggrad_plus", alpha=0.7).loss, x_r, y_r, x_f, y_f)
    retain, forget = models.gradients(cross_entropy, x_r, y_r), models.gradients(cross_entropy, x_f, y_f)
    assert all(torch.allclose(g, 0.7 * retain[n] - 0.3 * forget[n]) for n, g in found.items())


def test_random_labels_are_uniform_and_optionally_never_true():
    y = torch.arange(3000) % 3
    uniform = drawn(y, 3, Rng([0], stacked=False), wrong_only=False)
    assert (uniform == y).double().mean().item() == pytest.approx(1 / 3, abs=0.04)
    wrong = drawn(y, 3, Rng([0], stacked=False), wrong_only=True)
    assert not (wrong == y).any()
    assert ((wrong - y) % 3 == 1).double().mean().item() == pytest.approx(0.5, abs=0.04)


def test_random_labels_trains_forget_first_then_retain_with_its_own_labels():
    models, data, rng = one()
    seen = []
    models.step = lambda optimizer, loss, x, y: seen.append((len(x), y.tolist()))
    built("random_labels", epochs=1).unlearn(models, data, rng)
    assert [n for n, _ in seen] == [12, 40]
    assert sorted(seen[1][1]) == sorted(data.retain.tensors()[1].tolist())


def test_bad_teaching_has_one_teacher_for_forget_and_one_for_retain():
    x = torch.zeros(2, 1)
    good, bad = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 3.0]])
    student = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
    method = built("bad_teacher")
    found = method.loss(lambda x: student, lambda x: good, lambda x: bad, x, torch.tensor([True, False]))
    p = F.softmax(torch.stack([bad[0], good[1]]), -1)
    expected = (p * (p.log() - F.log_softmax(student, -1))).mean()
    assert found.item() == pytest.approx(expected.item())


def test_the_bad_teacher_is_a_fresh_network_of_each_models_own():
    task = tiny_task()
    models = ensemble(task, [0, 1], stacked=True)
    seen = []
    models.step = lambda optimizer, loss, good, bad, x, is_forget: seen.append((good, bad, x, is_forget))
    built("bad_teacher", batch_size=10).unlearn(
        models, data_of(task, [0, 1], stacked=True), rng_of([0, 1], stacked=True)
    )
    good, bad, _, _ = seen[0]
    assert torch.equal(good.parameters["0.weight"], models.parameters["0.weight"])
    assert not torch.equal(bad.parameters["0.weight"], models.parameters["0.weight"])
    assert not torch.equal(bad.parameters["0.weight"][0], bad.parameters["0.weight"][1])
    forget = sum(is_forget.sum(-1) for *_, is_forget in seen)
    assert forget.tolist() == [12, 12]
    assert sum(x.shape[1] for _, _, x, _ in seen) == 12 + int(0.3 * 40)


def test_scrub_ascends_on_forget_only_in_its_first_epochs():
    models, data, rng = one()
    calls = []
    step = models.step
    models.step = lambda optimizer, loss, *batch: (
        calls.append((len(batch), optimizer.param_groups[0]["lr"])),
        step(optimizer, loss, *batch),
    )[1]
    built("scrub").unlearn(models, data, rng)
    kinds = [n for n, _ in calls]
    assert kinds == [2, 3, 3] * 3 + [3, 3] * 2  # forget has one batch of 12, retain two
    assert [lr for _, lr in calls][-1] == pytest.approx(5e-5)
    assert calls[0][1] == pytest.approx(5e-4)


def test_scrub_moves_away_from_the_original_on_forget():
    models, data, _ = one()
    method = built("scrub")
    original = models.snapshot()
    with torch.no_grad():
        for parameter in models.template.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter, dtype=torch.float64))
    models.eval()
    x, _ = data.forget.tensors()
    away = models.gradients(method.away, original, x)
    near = models.gradients(lambda net, teacher, x: 16 * distillation(net, teacher, x, 4.0), original, x)
    assert all(torch.allclose(away[n], -near[n]) for n in near)
    assert any(near[n].abs().max() > 1e-6 for n in near)


def test_rewind_returns_the_checkpoint_with_the_reference_error(monkeypatch):
    task = tiny_task()
    models = ensemble(task, [0, 1], stacked=True)
    errors = iter([torch.tensor(e) for e in ([0.0, 0.4], [0.3, 0.5], [0.9, 0.6], [0.35, 0.4])])
    monkeypatch.setattr("harness.methods.scrub.error", lambda models, split: next(errors))
    states = []
    method = built("scrub", rewind=True, epochs=3)
    state = models.state
    models.state = lambda: (states.append(state()), states[-1])[1]
    method.unlearn(models, data_of(task, [0, 1], stacked=True), rng_of([0, 1], stacked=True))
    weight = models.parameters["4.weight"]
    assert torch.equal(weight[0], states[1]["4.weight"][0])  # 0.3 is nearest to 0.35
    assert torch.equal(weight[1], states[0]["4.weight"][1])  # 0.4 equals 0.4
    assert not torch.equal(weight[0], states[2]["4.weight"][0])


def test_the_l1_penalty_falls_linearly_to_zero():
    models, data, rng = one()
    pulls = []
    full = models.gradients
    models.gradients = lambda *a: {n: torch.zeros_like(g) for n, g in full(*a).items()}
    models.apply = lambda optimizer, g: (pulls.append(g["0.weight"].abs().max().item()), optimizer.step())
    built("l1_sparse", epochs=4, alpha=0.1).unlearn(models, data, rng)
    assert pulls == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_salun_moves_the_salient_half_alone():
    task = tiny_task()
    models = ensemble(task, [0, 1], stacked=True)
    data = data_of(task, [0, 1], stacked=True)
    mask = saliency(models, data, 0.5, 256)
    models.eval()
    x, y = data.forget.tensors()
    gradients = models.gradients(cross_entropy, x.expand(2, *x.shape), y.expand(2, -1))
    models.train()
    before = models.state()
    built("salun", lr=0.1, weight_decay=0.1).unlearn(models, data, rng_of([0, 1], stacked=True))
    moved = {n: before[n] != p for n, p in models.parameters.items()}
    for m in range(2):
        inside = torch.cat([gradients[n][m][k[m]].abs().flatten() for n, k in mask.items()])
        outside = torch.cat([gradients[n][m][~k[m]].abs().flatten() for n, k in mask.items()])
        assert inside.min() >= outside.max()
        assert len(inside) == round(0.5 * (len(inside) + len(outside)))
        assert not any(moved[n][m][~k[m]].any() for n, k in mask.items())
        assert torch.cat([moved[n][m][k[m]].flatten() for n, k in mask.items()]).double().mean() > 0.9


def test_dampening_on_a_hand_made_fisher():
    method = built("ssd", alpha=10.0, dampening=2.0)
    of_all = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
    of_forget = torch.tensor([5.0, 10.0, 40.0, 1.0, 0.0])
    assert method.factor(of_all, of_forget).tolist() == pytest.approx([1.0, 1.0, 0.05, 0.0, 1.0])
    assert built("ssd", alpha=1.5, dampening=4.0).factor(torch.tensor(1.0), torch.tensor(2.0)).item() == 1.0


def test_ssd_dampens_by_its_importances():
    models, data, rng = one()
    method = built("ssd", alpha=1.0, batch_size=128)
    before = models.state()
    x_f, y_f = data.forget.tensors()
    x_r, y_r = data.retain.tensors()
    models.eval()
    of_forget = models.gradients(cross_entropy, x_f, y_f)["4.weight"] ** 2
    of_all = models.gradients(cross_entropy, torch.cat([x_r, x_f]), torch.cat([y_r, y_f]))["4.weight"] ** 2
    method.unlearn(models, data, rng)
    expected = before["4.weight"] * torch.where(of_forget > of_all, (of_all / of_forget).clamp(max=1), 1)
    assert torch.allclose(models.parameters["4.weight"], expected, atol=1e-10)
    assert all(torch.equal(before[n], b) for n, b in models.buffers.items())


def test_the_last_k_layers_and_the_norms_behind_them():
    net = plain(one()[0])
    assert last_names(net, 1)[0] == {"13.weight", "13.bias"}
    names, found = last_names(net, 2)
    assert names == {"13.weight", "13.bias", "9.weight", "9.bias", "8.weight"}
    assert found == [net[13], net[8]]


def test_cf_k_trains_and_eu_k_redraws_the_last_k_only():
    for name, k in (("cf_k", 2), ("eu_k", 1)):
        models, data, rng = one()
        before = models.state()
        built(name, k=k, epochs=1).unlearn(models, data, rng)
        moved = {n for n, p in models.parameters.items() if not torch.equal(before[n], p)}
        assert moved == last_names(plain(models), k)[0]
    models, data, rng = one()
    before = models.state()
    built("eu_k", k=2, epochs=0).unlearn(models, data, rng)
    assert {n for n, p in models.parameters.items() if not torch.equal(before[n], p)} == {
        "13.weight",
        "13.bias",
        "8.weight",
    }


def test_gradients_are_clipped_model_by_model():
    gradients = {"a": torch.tensor([[3.0, 0.0], [0.3, 0.0]]), "b": torch.tensor([[4.0], [0.4]])}
    found = clipped(gradients, 1.0, (2,))
    assert torch.allclose(found["a"][0], torch.tensor([0.6, 0.0]), atol=1e-5)
    assert torch.allclose(found["b"], torch.tensor([[0.8], [0.4]]), atol=1e-5)
    assert SMALL["widths"] == [4, 4, 6]
