import torch
from harness.methods.surgery import main_path_norms

from tests.methods.tiny_task import built, constants, one


def test_the_constants_are_the_authors():
    assert constants("random_mask") == {
        "masked": 0.5,
        "epochs": 5,
        "lr": 1e-4,
        "lr_end_factor": 0.1,
        "weight_decay": 1e-4,
        "batch_size": 64,
    }


def test_half_of_every_tensor_but_batch_norms_becomes_zero():
    models, _, rng = one()
    before = models.state()
    models.map_weights(built("random_mask").mask, rng)
    norms = main_path_norms(models.template)
    for name, parameter in models.parameters.items():
        zeros = (parameter == 0).sum().item()
        if name in norms:
            assert torch.equal(parameter, before[name])
        else:
            assert zeros == round(0.5 * parameter.numel())
            assert torch.equal(parameter[parameter != 0], before[name][parameter != 0])


def test_masked_weights_may_grow_back():
    models, data, rng = one()
    built("random_mask").unlearn(models, data, rng)
    assert (models.parameters["0.weight"] == 0).sum() == 0
