import pytest
import torch
import torch.nn.functional as F

from tests.methods.tiny_task import built, constants, data_of, ensemble, one, rng_of, tiny_task


def masks_of(method, models, data, rng):
    return method.masks(models, models.snapshot(), data, rng)


def test_the_documented_starting_values():
    found = constants("pecker")
    assert (found["mask"], found["targets"], found["density"], found["refresh"]) == ("saliency", "cover", 0.5, 1)
    assert (found["retain_weight"], found["forget_weight"], found["temperature"]) == (1.0, 1.0, 2.0)


@pytest.mark.parametrize(("kind", "share"), [("saliency", 0.3), ("random", 0.3), ("both", 0.3), ("none", 1.0)])
def test_masks_have_their_density_in_every_model(kind, share):
    task = tiny_task()
    models = ensemble(task, [0, 1], stacked=True)
    data, rng = data_of(task, [0, 1], stacked=True), rng_of([0, 1], stacked=True)
    found = masks_of(built("pecker", mask=kind, density=0.3), models, data, rng)
    flat = torch.cat([m.flatten(1) for m in found.values()], dim=1)
    assert flat.sum(1).tolist() == [round(share * flat.shape[1])] * 2
    assert kind == "none" or not torch.equal(flat[0], flat[1])


def test_the_saliency_mask_takes_the_largest_forget_gradients():
    models, data, rng = one()
    method = built("pecker", density=0.2)
    mask = masks_of(method, models, data, rng)
    models.eval()
    guide = models.snapshot()
    gradients = models.gradients(method.forget_loss, guide, *data.forget.tensors())
    inside = torch.cat([gradients[n][m].abs() for n, m in mask.items()])
    outside = torch.cat([gradients[n][~m].abs() for n, m in mask.items()])
    assert inside.min() >= outside.max()


@pytest.mark.parametrize("kind", ["saliency", "both"])
def test_forget_updates_are_masked_and_retain_updates_are_full_unless_both(kind):
    models, data, rng = one()
    method = built("pecker", mask=kind, retain_weight=2.0, forget_weight=3.0, weight_decay=0.1)
    mask = masks_of(method, models, data, rng)
    retain = {n: torch.randn_like(p) for n, p in models.parameters.items()}
    forget = {n: torch.randn_like(p) for n, p in models.parameters.items()}
    found = method.combined(models, retain, forget, mask)
    for name, m in mask.items():
        full = 2 * retain[name] + 0.1 * models.parameters[name]
        assert torch.allclose(found[name][m], (full + 3 * forget[name])[m])
        assert torch.allclose(found[name][~m], torch.zeros_like(full)[~m] if kind == "both" else full[~m])


def test_targets():
    x = torch.zeros(1, 1)
    teacher, student = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.2, 0.0]])
    y = torch.tensor([0])
    log_p = F.log_softmax(student, -1)

    def loss(kind):
        return built("pecker", targets=kind).forget_loss(lambda x: student, lambda x: teacher, x, y).item()

    def kl(p):
        return (p[p > 0] * (p[p > 0].log() - log_p[0][p > 0])).sum().item()

    assert loss("uniform") == pytest.approx(kl(torch.full((3,), 1 / 3)))
    assert loss("incompetent") == pytest.approx(kl(F.softmax(teacher, -1)[0]))
    assert loss("cover") == pytest.approx(kl(torch.cat([torch.zeros(1), F.softmax(teacher[0, 1:], -1)])))


def test_forget_batches_do_not_move_the_running_statistics():
    models, data, rng = one()
    counts = []
    full = models.gradients
    models.gradients = lambda *a: (full(*a), counts.append(models.buffers["1.num_batches_tracked"].item()))[0]
    built("pecker", epochs=1, batch_size=20, refresh=0).unlearn(models, data, rng)
    assert counts == [0, 0, 1, 1, 2]  # the mask, then forget and retain twice


@pytest.mark.parametrize(("refresh", "expected"), [(0, 1), (1, 4), (2, 2)])
def test_the_mask_is_refreshed_every_k_epochs(refresh, expected):
    models, data, rng = one()
    method = built("pecker", epochs=4, refresh=refresh)
    calls = []
    masks = method.masks
    method.masks = lambda *a: (calls.append(1), masks(*a))[1]
    method.unlearn(models, data, rng)
    assert len(calls) == expected
