import pytest
import torch
from harness.methods.surgery import layers

from tests.methods.tiny_task import built, one


def erased(**changes):
    """What the eraser alone does: the difference of every weight, and the models."""
    models, data, rng = one()
    before = models.state()
    built("erase_repair", lr=0.0, weight_decay=0.0, epochs=1, **changes).unlearn(models, data, rng)
    return {n: models.state()[n] - before[n] for n in models.parameters}, before


def touched(difference):
    return {name for name, change in difference.items() if change.abs().max() > 0}


@pytest.mark.parametrize(("which", "expected"), [("first", {"0.weight"}), ("last", {"13.weight", "13.bias"})])
def test_the_first_or_the_last_layer_is_reinitialised(which, expected):
    assert touched(erased(erase="reinitialise", layers=which)[0]) == expected


def test_k_random_layers():
    difference, _ = erased(erase="reinitialise", layers="random", layer_count=2)
    assert len({name.split(".")[0] for name in touched(difference)}) == 2


def test_by_norm_and_by_gradient():
    models, data, rng = one()
    with torch.no_grad():
        models.template[8].weight.mul_(100)
    method = built("erase_repair", layers="norm")
    assert method.chosen(models.template, {}) == [models.template[8]]
    method = built("erase_repair", layers="gradient")
    gradient = {name: torch.zeros_like(p) for name, p in models.parameters.items()}
    gradient["4.weight"] += 1
    assert method.chosen(models.template, gradient) == [models.template[4]]
    built("erase_repair", layers="gradient").unlearn(models, data, rng)


def test_noise_has_its_sigma():
    difference, _ = erased(erase="noise", layers="all", noise=0.3)
    assert touched(difference) == {"0.weight", "4.weight", "8.weight", "13.weight"}
    sizes = torch.cat([difference[n].flatten() for n in touched(difference)])
    assert sizes.std().item() == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_pruning_removes_the_smallest(scope):
    difference, before = erased(erase="prune", prune=0.4, prune_scope=scope)
    names = ["0.weight", "4.weight", "8.weight", "13.weight"]
    gone = {n: (before[n] + difference[n]) == 0 for n in names}
    total = sum(before[n].numel() for n in names)
    if scope == "layer":
        assert all(gone[n].sum() == round(0.4 * before[n].numel()) for n in names)
    else:
        assert sum(g.sum() for g in gone.values()) == round(0.4 * total)
        kept = torch.cat([before[n][~gone[n]].abs() for n in names])
        assert torch.cat([before[n][gone[n]].abs() for n in names]).max() <= kept.min()


def test_distilling_from_an_unerased_model_is_at_its_optimum():
    models, data, _ = one()
    models.eval()
    original = models.snapshot()
    x, _ = data.retain.tensors()
    gradients = models.gradients(built("erase_repair", repair="distil").distil, original, x)
    assert all(g.abs().max() < 1e-12 for g in gradients.values())
    assert len(layers(models.template)) == 4
