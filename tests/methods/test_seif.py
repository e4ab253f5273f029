import pytest
import torch
import torch.nn.functional as F

from tests.methods.tiny_task import RESNET, built, constants, one, tiny_task


def changed_by_confusion(method, models, rng, std):
    before = models.state()
    models.map_weights(lambda net: method.confuse(net, std), rng)
    return {n: models.state()[n] - t for n, t in before.items() if not torch.equal(models.state()[n], t)}


def test_the_constants_are_the_authors():
    found = constants("seif")
    assert (found["first_noise"], found["last_noise"], found["other_classes_weight"]) == (0.6, 0.005, 0.05)
    assert (found["epochs"], found["lr"], found["momentum"], found["weight_decay"]) == (4, 7e-4, 0.9, 5e-4)
    assert (found["convolutions"], found["weighting"], found["full_weight_class"]) == ("first", "batch", 0)


def test_the_noise_hits_the_stem_alone_with_the_chosen_sigma():
    models, _, rng = one(task=tiny_task(channels=3), model=RESNET)
    noise = changed_by_confusion(built("seif"), models, rng, 0.6)
    assert list(noise) == ["conv1.weight"]
    assert noise["conv1.weight"].std().item() == pytest.approx(0.6, rel=0.03)
    assert abs(noise["conv1.weight"].mean().item()) < 0.03


def test_or_every_convolution():
    models, _, rng = one()
    assert list(changed_by_confusion(built("seif", convolutions="all"), models, rng, 0.1)) == [
        "0.weight",
        "4.weight",
        "8.weight",
    ]


def test_the_light_noise_comes_before_the_last_epoch():
    models, data, rng = one()
    calls = []
    method = built("seif", lr=0.0, weight_decay=0.0)
    confuse = method.confuse
    steps = [0]
    method.confuse = lambda net, std: (calls.append((std, steps[0])), confuse(net, std))[1]
    step = models.step
    models.step = lambda *a: (steps.__setitem__(0, steps[0] + 1), step(*a))[1]
    method.unlearn(models, data, rng)
    per_epoch = data.retain.steps(64)
    assert calls == [(0.6, 0), (0.005, 3 * per_epoch)]


def test_both_readings_of_the_class_weights():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([0, 1])
    each = F.cross_entropy(logits, y, reduction="none")
    as_coded = built("seif").loss(lambda x: x, logits, y)
    per_example = built("seif", weighting="example").loss(lambda x: x, logits, y)
    assert as_coded.item() == pytest.approx((each.mean() * (1 + 0.05) / 2).item())
    assert per_example.item() == pytest.approx(((each[0] + 0.05 * each[1]) / 2).item())
