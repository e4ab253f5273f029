import torch
import torch.nn.functional as F
from harness.methods.amnesiacs import reset_both_ends

from tests.methods.tiny_task import RESNET, built, constants, one, tiny_task


def test_the_constants_are_the_teams():
    assert constants("amnesiacs") == {
        "temperature": 5.0,
        "warm_up_on": "forget_classes",
        "warm_up_epochs": 3,
        "warm_up_lr": 9e-4,
        "repair_epochs": 3,
        "repair_lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 64,
    }


def test_stem_and_head_are_reset_and_nothing_else():
    models, _, rng = one(task=tiny_task(channels=3), model=RESNET)
    before = models.state()
    models.map_weights(reset_both_ends, rng)
    after = models.state()
    assert {n for n in before if not torch.equal(before[n], after[n])} == {"conv1.weight", "fc.weight", "fc.bias"}
    bound = 1 / (3 * 49) ** 0.5  # PyTorch's default: U(±1/√fan_in)
    assert after["conv1.weight"].abs().max() <= bound


def test_the_warm_up_uses_valid_images_of_forgets_classes():
    models, data, rng = one(task=tiny_task(whole_class=True))
    assert set(data.forget.tensors()[1].tolist()) == {0}
    seen = []
    step = models.step

    def watched(optimizer, loss, teacher, x, *y):
        seen.append(len(x)) if not y else None
        step(optimizer, loss, teacher, x, *y)

    models.step = watched
    built("amnesiacs", warm_up_epochs=1, repair_epochs=1).unlearn(models, data, rng)
    assert sum(seen) == (data.valid.tensors()[1] == 0).sum()
    seen.clear()
    built("amnesiacs", warm_up_epochs=1, repair_epochs=1, warm_up_on="all").unlearn(models, data, rng)
    assert sum(seen) == len(data.valid)


def test_the_repair_gradient_is_that_of_ce_plus_two_distillations():
    torch.manual_seed(0)
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 3, dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 0, 1])
    method = built("amnesiacs")
    found = torch.autograd.grad(method.repair_loss(lambda x: logits, lambda x: teacher, teacher, y), logits)[0]
    soft = F.kl_div(F.log_softmax(logits / 5, -1), F.softmax(teacher / 5, -1), reduction="batchmean")
    expected = torch.autograd.grad(F.cross_entropy(logits, y) + 2 * soft, logits)[0]
    assert torch.allclose(found, expected, atol=1e-12)
