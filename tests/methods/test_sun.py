import torch
from harness.methods.sun import pool
from torch import nn

from harness.models import resnet18
from tests.methods.tiny_task import RESNET, built, constants, data_of, ensemble, one, rng_of, tiny_task


def test_the_constants_are_the_authors():
    found = constants("sun")
    assert (found["selected"], found["noisy_share"], found["noise"]) == (9, 0.7, 0.04)
    assert (found["partial_epochs"], found["noise_from_epoch"]) == (5, 1)
    assert (found["lr"], found["fine_lr"]) == (2e-4, [2e-4, 2e-4, 2e-4, 1e-3])
    assert (found["momentum"], found["weight_decay"], found["batch_size"]) == (0.9, 5e-4, 64)


def test_the_pool_of_a_resnet18_is_what_has_no_bn_in_its_name():
    net = resnet18(classes=10, channels=3)
    assert pool(net) == [name for name, _ in net.named_parameters() if "bn" not in name]
    assert len(pool(net)) == 28


def test_nine_tensors_are_chosen_and_six_of_them_get_noise():
    models, _, rng = one(task=tiny_task(channels=3), model=RESNET)
    method = built("sun")
    order = method.random_order(models, rng)
    before = models.state()
    models.map_weights(method.disturb, rng, order, torch.ones(28, dtype=torch.bool))
    after = models.state()
    noisy = {name for name in before if not torch.equal(before[name], after[name])}
    trainable = method.trainable(models, order)
    chosen = {name for name in pool(models.template) if trainable[name].item() == 1}
    assert len(noisy) == 6
    assert len(chosen) == 9
    assert noisy < chosen
    assert all(trainable[n].item() == 1 for n in models.parameters if "bn" in n)
    sizes = [(after[n] - before[n]).std().item() for n in noisy if before[n].numel() > 5000]
    assert all(abs(size - 0.04) < 0.003 for size in sizes)


def test_a_tensor_chosen_before_gets_no_noise():
    """As the source skips what it has selected: on 28 tensors 9.98 injections a run on average, not 24."""
    injected = []
    for seed in range(60):
        models = ensemble(tiny_task(channels=3), [seed], stacked=False, model=RESNET)
        method = built("sun", fine_lr=[])
        disturb = method.disturb

        def counted(net, order, fresh, disturb=disturb):
            before = {name: p.clone() for name, p in net.named_parameters()}
            disturb(net, order, fresh)
            changed = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
            places = [i for i, name in enumerate(pool(net)) if name in changed]
            assert fresh[places].all()
            injected.append(len(changed))

        method.disturb, method.one_epoch = counted, lambda *arguments: None
        method.unlearn(models, None, rng_of([seed], stacked=False))
    assert len(injected) == 60 * 4  # epochs 2 to 5
    assert abs(sum(injected) / 60 - 9.98) < 0.6


def test_the_models_of_a_stack_skip_each_its_own():
    models = ensemble(tiny_task(), [0, 1], stacked=True)
    method = built("sun", selected=2, noisy_share=1.0, fine_lr=[], partial_epochs=3, noise_from_epoch=0)
    seen = []
    method.disturb = lambda net, order, fresh: seen.append((order[:2].tolist(), fresh.clone()))
    method.one_epoch = lambda *arguments: None
    method.unlearn(models, None, rng_of([0, 1], stacked=True))
    for m in range(2):
        chosen = set()
        for order, fresh in seen[m::2]:
            assert set((~fresh).nonzero().flatten().tolist()) == chosen
            chosen |= set(order)


def test_frozen_tensors_do_not_move_in_spite_of_decay():
    task = tiny_task()
    models = ensemble(task, [0, 1], stacked=True)
    method = built("sun", partial_epochs=1, fine_lr=[], selected=2, lr=0.1, weight_decay=0.1)
    orders = []
    random_order = method.random_order
    method.random_order = lambda *a: (orders.append(random_order(*a)), orders[-1])[1]
    start = models.state()
    method.unlearn(models, data_of(task, [0, 1], stacked=True), rng_of([0, 1], stacked=True))
    names = pool(models.template)
    for m in range(2):
        chosen = {names[i] for i in orders[0][m, :2].tolist()}
        for name in names:
            moved = not torch.equal(start[name][m], models.parameters[name][m])
            assert moved == (name in chosen or name.startswith("13"))  # the head was reset


def test_the_head_is_reset():
    models, data, rng = one()
    head = [m for m in models.template.modules() if isinstance(m, nn.Linear)][-1].weight.clone()
    built("sun", partial_epochs=0, fine_lr=[]).unlearn(models, data, rng)
    assert not torch.equal(head, models.parameters["13.weight"])
