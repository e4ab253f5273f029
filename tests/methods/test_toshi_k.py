import torch
from harness.methods.surgery import convolutions
from harness.methods.toshi_k import transpose_kernels

from tests.methods.tiny_task import built, constants, one


def test_the_constants_are_the_teams():
    assert constants("toshi_k") == {"epochs": 3, "lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 64}


def test_transposing_twice_is_the_identity_and_only_kernels_change():
    models, _, rng = one()
    before = models.state()
    models.map_weights(transpose_kernels, rng)
    once = models.state()
    changed = {name for name in before if not torch.equal(before[name], once[name])}
    assert changed == {"0.weight", "4.weight", "8.weight"}
    assert torch.equal(once["4.weight"], before["4.weight"].transpose(-1, -2))
    models.map_weights(transpose_kernels, rng)
    assert all(torch.equal(before[name], tensor) for name, tensor in models.state().items())


def test_it_equals_feeding_transposed_images():
    models, data, rng = one()
    x, _ = data.retain.tensors()
    seen = models.logits(x)
    models.map_weights(transpose_kernels, rng)
    assert torch.allclose(models.logits(x.transpose(-1, -2)), seen, atol=1e-5)
    assert not torch.allclose(models.logits(x), seen, atol=1e-3)


def test_the_surgery_is_what_the_method_starts_with():
    models, data, rng = one()
    kernel = convolutions(models.template)[0].weight.clone()
    built("toshi_k", lr=0.0).unlearn(models, data, rng)
    assert torch.equal(models.parameters["0.weight"], kernel.transpose(2, 3))
