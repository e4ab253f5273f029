import pytest
import torch
from harness.methods.forget import pool, remember

from harness.models import resnet18
from tests.methods.tiny_task import RESNET, built, constants, one, tiny_task


def test_the_constants_are_the_teams():
    found = constants("forget")
    assert (found["tensors"], found["cycles"], found["lr"], found["cosine_epochs"]) == (6, [1, 2, 2], 1e-3, 2)
    assert found["rates"] == [5e-4, 1e-3, 1e-3, 1e-3, 1e-3]
    assert found["noise"] == 0.01


def test_the_pool_of_a_resnet18_has_51_tensors_and_no_head_and_no_shortcut():
    names = pool(resnet18(classes=10, channels=3))
    assert len(names) == 51
    assert not any("fc" in name or "downsample" in name for name in names)


def test_at_most_six_tensors_are_reset_to_their_constructors_values():
    models, _, rng = one(task=tiny_task(channels=3), model=RESNET)
    with torch.no_grad():
        for parameter in models.template.parameters():
            parameter.add_(1.0)  # so that a reset is seen on batch norms too
    before = models.state()
    models.map_weights(built("forget").forget, rng)
    after = models.state()
    reset = {name for name in before if not torch.equal(before[name], after[name])}
    assert 1 <= len(reset) <= 6
    assert reset <= set(pool(models.template))
    for name in reset:
        if "bn" in name:
            assert torch.equal(after[name], torch.full_like(after[name], float(name.endswith("weight"))))
        else:
            assert after[name].abs().max() <= 1 / before[name][0].numel() ** 0.5


def test_remembering_is_a_squared_error_of_logits_without_labels():
    z = torch.tensor([[1.0, 2.0]])
    assert remember(lambda x: z, lambda x: z + 3, z).item() == pytest.approx(9.0)


def test_rates_of_both_variants():
    models, data, rng = one()
    seen = []
    for changes in ({}, {"cycles": [2, 1, 1, 1], "cosine_epochs": None}):
        seen.clear()
        method = built("forget", **changes)
        models.apply = lambda optimizer, _: (seen.append(round(optimizer.param_groups[0]["lr"], 9)), optimizer.step())
        method.unlearn(models, data, rng)
        if not changes:
            assert seen == [1e-3, 1e-3, 5e-4, 1e-3, 5e-4]
        else:
            assert seen == [5e-4, 1e-3, 1e-3, 1e-3, 1e-3]


def test_the_images_carry_noise_of_their_own_scale():
    from harness.engine.batches import GaussianNoise
    from harness.streams import Rng

    x = torch.zeros(2, 50, 8, 8, 1, dtype=torch.float64)
    noise = GaussianNoise(0.01)(x, Rng([1, 2], stacked=True))
    assert noise.std().item() == pytest.approx(0.01, rel=0.05)
    assert torch.equal(noise[1], GaussianNoise(0.01)(x[1], Rng([2], stacked=False)))
