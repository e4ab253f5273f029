"""What methods share: the engine's per-model extras and batches, and the surgery on names."""

import pytest
import torch
from harness.methods.gradients import masked_step
from harness.methods.surgery import extreme_of_all, in_shortcut, main_path_norms, reset
from torch import nn

from harness.engine.losses import cross_entropy
from harness.models import resnet18
from tests.methods.tiny_task import RESNET, data_of, ensemble, one, rng_of, tiny_task


@pytest.mark.parametrize("stacked", [True, False])
def test_surgery_sees_each_models_part_of_its_extras(stacked):
    draws = [0, 1] if stacked else [0]
    models = ensemble(tiny_task(), draws, stacked=stacked)
    teacher = models.snapshot()
    number = torch.arange(2.0, 4.0) if stacked else torch.tensor(2.0)
    masks = {"0.weight": torch.stack([torch.full((4, 1, 3, 3), float(m)) for m in draws])}
    masks = masks if stacked else {n: t[0] for n, t in masks.items()}

    def write(net, number, masks, teacher):
        net[13].bias.fill_(number.item())
        net[0].weight.copy_(masks["0.weight"])
        net[4].weight.copy_(2 * teacher[4].weight)

    models.map_weights(write, rng_of(draws, stacked=stacked), number, masks, teacher)
    first = {n: t[0] if stacked else t for n, t in models.parameters.items()}
    assert (first["13.bias"] == 2).all()
    assert (first["0.weight"] == 0).all()
    assert torch.equal(models.parameters["4.weight"], 2 * teacher.parameters["4.weight"])
    if stacked:
        assert (models.parameters["13.bias"][1] == 3).all()
        assert (models.parameters["0.weight"][1] == 1).all()


def test_a_snapshot_can_be_drawn_anew_and_the_models_stay():
    for stacked in (True, False):
        draws = [0, 1] if stacked else [0]
        models = ensemble(tiny_task(), draws, stacked=stacked)
        before = models.state()
        fresh = models.snapshot()
        fresh.reinitialise(rng_of(draws, stacked=stacked))
        assert not torch.equal(fresh.parameters["0.weight"], models.parameters["0.weight"])
        assert all(torch.equal(before[n], t) for n, t in models.state().items())


def test_a_gradient_of_another_memory_layout_steps_the_right_weights():
    models, data, _ = one(task=tiny_task(channels=3), model=RESNET)
    gradients = models.gradients(cross_entropy, *data.forget.tensors())
    before = models.state()
    models.apply(models.sgd(lr=1.0), {n: g.clone(memory_format=torch.contiguous_format) for n, g in gradients.items()})
    assert all(torch.allclose(before[n] - p, gradients[n]) for n, p in models.parameters.items())


@pytest.mark.parametrize("stacked", [True, False])
def test_mixed_batches_know_where_each_image_is_from(stacked):
    draws = [0, 1] if stacked else [0]
    data = data_of(tiny_task(), draws, stacked=stacked)
    batches = list(data.forget.mixed_with(data.retain.random_subset(9), 8))
    x, _, of_forget = (torch.cat(parts, dim=int(stacked)) for parts in zip(*batches, strict=True))
    assert (of_forget.sum(-1) == 12).all()
    assert x.shape[int(stacked)] == 21
    first, first_forget = (x[0], of_forget[0]) if stacked else (x, of_forget)
    originals = data.forget.tensors()[0]
    assert all(any(torch.equal(image, other) for other in originals) for image in first[first_forget])
    assert not any(torch.equal(image, other) for other in originals for image in first[~first_forget])


def test_parts_of_a_split_by_class():
    data = data_of(tiny_task(whole_class=True), [0, 1], stacked=True)
    assert data.forgotten_class == 0
    assert data_of(tiny_task(), [0], stacked=False).forgotten_class is None
    ones = data.retain.of_classes(torch.tensor([False, True, False]))
    assert ones.tensors()[1].tolist() == [1] * 20
    labels = torch.cat([y for _, y in data.retain.random_of_each_class(7).batches(64)], dim=1)
    assert [torch.bincount(row, minlength=3).tolist() for row in labels] == [[0, 7, 7]] * 2


def test_masked_weights_do_not_move_under_momentum_and_decay():
    models, data, _ = one()
    before = models.state()
    mask = {n: torch.zeros_like(p, dtype=torch.bool) for n, p in models.parameters.items()}
    mask["4.weight"][0] = True
    optimizer = models.sgd(lr=0.1, momentum=0.9)
    for x, y in data.retain.batches(16):
        masked_step(models, optimizer, mask, 0.1, cross_entropy, x, y)
    moved = {n: before[n] != p for n, p in models.parameters.items()}
    assert all(not moved[n][~m].any() for n, m in mask.items())
    assert moved["4.weight"][0].all()


def test_the_largest_of_all_tensors_together():
    scores = {"a": torch.tensor([[1.0, 5.0], [9.0, 8.0]]), "b": torch.tensor([[4.0], [0.0]])}
    masks = extreme_of_all(scores, 2 / 3, largest=True, lead=(2,))
    assert masks["a"].tolist() == [[False, True], [True, True]]
    assert masks["b"].tolist() == [[True], [False]]


def test_names_of_a_resnet18():
    net = resnet18(classes=10, channels=3)
    assert main_path_norms(net) == {name for name, _ in net.named_parameters() if "bn" in name}
    assert sum(in_shortcut(name) for name, _ in net.named_parameters()) == 9


def test_one_tensor_of_a_layer_is_reset_alone():
    norm = nn.Sequential(nn.BatchNorm2d(3), nn.Linear(4, 2))
    with torch.no_grad():
        for tensor in [*norm.parameters(), *norm.buffers()]:
            tensor.add_(2)
        reset(norm, "0.weight")
        bias = norm[1].bias.clone()
        reset(norm, "1.weight")
    assert norm[0].weight.tolist() == [1, 1, 1]
    assert norm[0].bias.tolist() == [2, 2, 2]
    assert norm[0].running_mean.tolist() == [2, 2, 2]
    assert torch.equal(norm[1].bias, bias)
    assert norm[1].weight.abs().max() <= 0.5
