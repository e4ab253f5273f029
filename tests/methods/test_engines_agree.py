"""Each method gives the same weights from a stack of models and from the models one by one, in float64."""

import pytest
import torch

from tests.methods.tiny_task import tiny_task, unlearned_state

QUICK = {
    "kookmin": {"epochs": 1},
    "seif": {"epochs": 2, "first_noise": 0.05},
    "toshi_k": {"epochs": 1},
    "amnesiacs": {"warm_up_epochs": 1, "repair_epochs": 1},
    "sun": {"partial_epochs": 2, "fine_lr": [1e-3], "selected": 3},
    "forget": {"cycles": [1, 1], "tensors": 2},
    "random_mask": {"epochs": 1},
    "erase_repair": {"epochs": 1, "layer_count": 2, "repair": "distil"},
    "neggrad_plus": {"epochs": 1},
    "random_labels": {"epochs": 2},
    "bad_teacher": {},
    "scrub": {"epochs": 2, "ascent_epochs": 1, "rewind": True},
    "l1_sparse": {"epochs": 2},
    "salun": {"epochs": 1},
    "ssd": {"alpha": 1.0},
    "cf_k": {"k": 2, "epochs": 2},
    "eu_k": {"k": 2, "epochs": 2},
    "fisher": {"chunk": 8},
    "influence": {"samples": 30, "chunk": 7},
    "boundary_shrink": {"epochs": 1, "lr": 1e-2},
    "unsir": {"noise_images": 5, "noise_steps": 3, "impair_lr": 1e-3, "repair_lr": 1e-3},
    "sfron": {"epochs": 3, "batch_size": 20},
    "delete": {"epochs": 2, "lr": 1e-2},
    "pecker": {"epochs": 2, "batch_size": 20, "targets": "incompetent"},
    "fast_ntk": {"hessian": "ggn"},
}


@pytest.mark.parametrize("name", QUICK)
def test_stacked_is_sequential(name):
    task = tiny_task(whole_class=name == "unsir")
    stacked = unlearned_state(name, [0, 1], stacked=True, task=task, **QUICK[name])
    sequential = unlearned_state(name, [0, 1], stacked=False, task=task, **QUICK[name])
    for key, tensor in stacked.items():
        assert torch.allclose(tensor.double(), sequential[key].double(), rtol=1e-6, atol=1e-8), key
    assert any(not torch.equal(tensor[0], tensor[1]) for tensor in stacked.values())
