"""Both engines against plain autograd and against each other; surgery, freezing, snapshots."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harness.engine.dropout import use_streams
from harness.engine.ensemble import Ensemble, joined
from harness.engine.features import features
from harness.engine.losses import cross_entropy
from harness.engine.sequential import Sequential
from harness.engine.stacked import Stacked
from harness.engine.training import train
from harness.errors import UserError
from harness.models import build, resnet18, small_cnn
from harness.streams import Rng
from tests.helpers import (
    DROPOUT_NET,
    ENGINES,
    SMALL_CNN,
    differences,
    fresh,
    rng_for,
    split,
    tiny_options,
    with_labels,
)

both_engines = pytest.mark.parametrize("stacked", ENGINES.values(), ids=ENGINES)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def member(models, m):
    """State of model m of an ensemble."""
    return {name: (t[m] if models.stacked else t) for name, t in models.state().items()}


def batch(models, size=8, side=8, channels=1, classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*models.lead, size, side, side, channels, generator=generator, dtype=torch.float64)
    return x.movedim(-1, -3), torch.randint(classes, (*models.lead, size), generator=generator)


# --- steps ----------------------------------------------------------------------------------------------------------


def by_hand(net, x, y, steps, kind):
    net = copy.deepcopy(net).train()
    if kind == "sgd":
        optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    else:
        optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net.state_dict()


def as_steps(models, x, y, steps, kind):
    models.train()
    optimizer = models.sgd(lr=0.1, momentum=0.9, weight_decay=0.01) if kind == "sgd" else models.adam(lr=0.01)
    for _ in range(steps):
        models.step(optimizer, cross_entropy, x, y)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("images", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("weights", LAYOUTS.values(), ids=LAYOUTS)
def test_steps_equal_a_plain_loop_whatever_the_memory_layout(weights, images, kind):
    torch.manual_seed(0)
    nets = [small_cnn(classes=10, channels=3, widths=(4, 6, 8)).to(torch.float64) for _ in range(2)]
    nets = [net.to(memory_format=weights) for net in nets]
    x, y = batch(Stacked(nets), channels=3)
    x = x.contiguous() if images is torch.contiguous_format else x
    assert (x[0].stride(1) == 1) == (images is torch.channels_last)
    expected = [by_hand(net, x[m], y[m], 3, kind) for m, net in enumerate(nets)]

    stacked = Stacked(copy.deepcopy(nets))
    as_steps(stacked, x, y, 3, kind)
    for m, net in enumerate(nets):
        sequential = Sequential(copy.deepcopy(net))
        as_steps(sequential, x[m], y[m], 3, kind)
        for name, value in expected[m].items():
            torch.testing.assert_close(sequential.state()[name], value, rtol=0, atol=1e-12, msg=name)
            torch.testing.assert_close(stacked.state()[name][m], value, rtol=0, atol=1e-12, msg=name)


def test_one_step_of_resnet18():
    """torchvision's, weights and batch-norm statistics, in float64."""
    torch.manual_seed(0)
    nets = [resnet18(classes=10, channels=3).to(torch.float64) for _ in range(2)]
    stacked = Stacked(copy.deepcopy(nets))
    x, y = batch(stacked, size=4, side=32, channels=3)
    as_steps(stacked, x, y, 1, "sgd")
    for m, net in enumerate(nets):
        sequential = Sequential(net)
        before = sequential.state()
        as_steps(sequential, x[m], y[m], 1, "sgd")
        after = sequential.state()
        assert max(differences(after, member(stacked, m)).values()) < 1e-9
        assert not torch.equal(after["layer4.1.bn2.running_var"], before["layer4.1.bn2.running_var"])
        assert not torch.equal(after["conv1.weight"], before["conv1.weight"])


@pytest.mark.parametrize("spec", [SMALL_CNN, DROPOUT_NET], ids=["small_cnn", "dropout"])
def test_training_stacked_equals_sequential(task, spec):
    """Two epochs in float64: weights, batch-norm statistics, position of the dropout streams, logits."""
    seeds = [1, 2, 3]

    def trained(seeds, *, stacked):
        models = fresh(task, seeds, stacked=stacked, model=spec)
        use_streams(models, rng_for(models, [10 * seed for seed in seeds]))
        order = rng_for(models, [100 * seed for seed in seeds])
        recipe = tiny_options(schedule="cosine", flip=True, crop=1)
        train(models, split(task, "retain", order), split(task, "valid", order), task.classes, recipe)
        return models

    together = trained(seeds, stacked=True)
    start = fresh(task, seeds, stacked=True, model=spec).state()
    x = split(task, "test", Rng([0], stacked=False)).tensors()[0]
    for m, seed in enumerate(seeds):
        alone = trained([seed], stacked=False)
        assert max(differences(alone.state(), member(together, m)).values()) < 1e-9
        torch.testing.assert_close(alone.logits(x), together.logits(x)[m], rtol=0, atol=1e-6)  # float32
    for name, value in together.state().items():  # everything moved, so that the comparison says something
        if not name.endswith("stream"):
            assert not torch.equal(value, start[name]), name


@both_engines
def test_unused_parameters_have_no_gradient_and_do_not_move(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    before = models.state()
    x, _ = batch(models)
    gradients = models.gradients(lambda net, x: (net(x) * 0).sum() + 1.0, x)
    assert all(float(g.abs().max()) == 0 for g in gradients.values())
    models.apply(models.sgd(lr=1.0), gradients)
    assert all(torch.equal(models.state()[n], before[n]) for n in models.parameters)


@both_engines
def test_freeze(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    head = [
        name for name in models.parameters if models.template.get_submodule(name.rpartition(".")[0]) is head_of(models)
    ]
    models.freeze(lambda name: name in head)
    before = models.state()
    x, y = batch(models)
    assert set(models.gradients(cross_entropy, x, y)) == set(head)
    for _ in range(2):
        models.step(models.sgd(lr=0.1, weight_decay=0.1), cross_entropy, x, y)
    moved = {name for name in models.parameters if not torch.equal(models.state()[name], before[name])}
    assert moved == set(head)
    models.freeze(lambda name: True)
    assert set(models.gradients(cross_entropy, x, y)) == set(models.parameters)


def head_of(models):
    return next(m for m in reversed(list(models.template.modules())) if isinstance(m, nn.Linear))


@both_engines
def test_freeze_batch_norm(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    models.train()
    models.freeze_batch_norm()
    x, y = batch(models)
    before = models.state()
    seen = []

    def loss(net, x, y):
        seen.append(net(x))
        return F.cross_entropy(seen[-1], y)

    models.step(models.sgd(lr=0.1), loss, x, y)
    after = models.state()
    assert all(torch.equal(after[n], before[n]) for n in models.buffers)
    assert not torch.equal(after["0.weight"], before["0.weight"])
    if not stacked:  # by running statistics, so as in evaluation
        models.assign(before)
        torch.testing.assert_close(seen[0].float(), models.logits(x))
    models.train()
    models.step(models.sgd(lr=0.1), cross_entropy, x, y)
    assert not torch.equal(models.state()["1.running_mean"], before["1.running_mean"])


@both_engines
def test_a_teacher_reaches_the_loss_as_the_net_of_the_same_model(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    teacher = models.snapshot()
    x, y = batch(models)
    for _ in range(2):
        models.step(models.sgd(lr=0.5), cross_entropy, x, y)
    frozen, statistics = teacher.state(), models.state()

    def distance(net, original, x):
        return (net(x) - original(x)).square().sum()

    models.eval()  # compare with logits, which are in evaluation mode
    values = models.gradients(distance, teacher, x)
    expected = []
    for m in range(models.size):
        nets = []
        for state in (statistics, frozen):
            net = copy.deepcopy(models.template).eval()
            net.load_state_dict({n: t[m] if stacked else t for n, t in state.items()})
            nets.append(net)
        image = x[m] if stacked else x
        loss = (nets[0](image) - nets[1](image).detach()).square().sum()
        expected.append(torch.autograd.grad(loss, list(nets[0].parameters())))
    for i, name in enumerate(values):
        for m in range(models.size):
            torch.testing.assert_close(values[name][m] if stacked else values[name], expected[m][i], atol=1e-9, rtol=0)
    assert all(torch.equal(teacher.state()[n], frozen[n]) for n in frozen)


@both_engines
def test_a_snapshot_does_not_move(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    teacher, before = models.snapshot(), models.state()
    x, y = batch(models)
    models.train()
    models.step(models.sgd(lr=0.5), cross_entropy, x, y)
    models.map_weights(lambda net: net[0].weight.zero_(), rng_for(models, [0, 0]))
    assert all(torch.equal(teacher.state()[n], before[n]) for n in before)
    assert not any(p.requires_grad for p in teacher.parameters.values())
    assert not teacher.template.training


@both_engines
def test_logits_are_those_of_evaluation_and_leave_everything_alone(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked, model=DROPOUT_NET)
    models.train()
    models.freeze_batch_norm()
    modes = [module.training for module in models.template.modules()]
    before = models.state()
    x = batch(fresh(task, [1], stacked=False), size=700)[0]  # more than one part
    logits = models.logits(x)
    assert logits.shape == (*models.lead, 700, 10)
    assert logits.dtype == torch.float32
    assert [module.training for module in models.template.modules()] == modes
    assert all(torch.equal(models.state()[n], before[n]) for n in before)
    net = copy.deepcopy(models.template).eval()
    with torch.no_grad():
        for m in range(models.size):
            net.load_state_dict({n: t for n, t in member(models, m).items() if n in net.state_dict()})
            torch.testing.assert_close(logits[m] if stacked else logits, net(x).float(), rtol=0, atol=1e-6)


# --- surgery --------------------------------------------------------------------------------------------------------


@both_engines
def test_features_are_what_enters_the_head(task, stacked):
    models = fresh(task, [0, 1] if stacked else [0], stacked=stacked, model=DROPOUT_NET)
    x = batch(models, side=8)[0][0] if stacked else batch(models, side=8)[0]
    x = x.to(models.dtype)
    before = models.state()
    entering, logits = features(models, x), models.logits(x)
    last = [name for name, _ in models.template.named_parameters() if name.endswith("weight")][-1]
    weight, bias = (models.parameters[name].float() for name in (last, last.replace("weight", "bias")))
    expected = entering @ weight.mT + bias[..., None, :]
    torch.testing.assert_close(expected, logits, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(models.state()[name], before[name]) for name in before)
    assert not any(module._forward_pre_hooks for module in models.template.modules())


def test_features_need_a_head():
    models = Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(UserError, match="no linear layer"):
        features(models, torch.zeros(1, 1, 4, 4))


def test_surgery_draws_from_each_models_own_stream(task):
    def redraw(net):
        net[0].weight.copy_(torch.randn_like(net[0].weight))

    def after(seeds, *, stacked):
        models = fresh(task, [0] * len(seeds), stacked=stacked)
        rng = Rng(seeds, stacked=stacked)
        models.map_weights(redraw, rng)
        once = models.state()["0.weight"]
        models.map_weights(redraw, rng)
        assert not torch.equal(models.state()["0.weight"], once)
        return once

    together = after([1, 2, 3], stacked=True)
    assert torch.equal(together[1], after([2], stacked=False))
    assert torch.equal(together[1], after([2, 9], stacked=True)[0])
    assert not torch.equal(together[0], together[1])


@both_engines
def test_surgery_leaves_the_world_alone_and_may_return_a_new_module(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    new = build(SMALL_CNN, classes=10, channels=1, seed=77).to(torch.float64)
    state = torch.get_rng_state()
    models.map_models(lambda net: new, rng_for(models, [0, 0]))
    assert torch.equal(torch.get_rng_state(), state)
    for m in range(models.size):
        assert max(differences(member(models, m), {n: t.detach() for n, t in new.state_dict().items()}).values()) == 0
    x, y = batch(models)
    models.step(models.sgd(lr=0.1), cross_entropy, x, y)  # and the new weights can be trained
    assert not torch.equal(member(models, 0)["0.weight"], new[0].weight)


CHANGES = {
    "another width": (lambda net: net.__setitem__(-1, nn.Linear(8, 11)), r"changed '\d+.weight' from shape"),
    "a layer less": (lambda net: net.__delitem__(-1), "removed"),
    "a layer more": (lambda net: net.append(nn.Linear(10, 10)), r"added '\d+.weight'"),
}


@both_engines
@pytest.mark.parametrize("change", CHANGES)
def test_surgery_must_keep_the_architecture(task, stacked, change):
    models = fresh(task, [1, 2], stacked=stacked)
    function, message = CHANGES[change]
    with pytest.raises(ValueError, match=message):
        models.map_models(lambda net: function(net) and None, rng_for(models, [0, 0]))


@both_engines
def test_an_optimiser_survives_surgery(task, stacked):
    """Weights are edited in place: an optimiser made before goes on with its momentum."""
    models = fresh(task, [1, 2], stacked=stacked)
    optimizer = models.sgd(lr=0.1)
    models.map_weights(lambda net: net[0].weight.fill_(0.5), rng_for(models, [0, 0]))
    x, y = batch(models)
    models.step(optimizer, cross_entropy, x, y)
    assert not torch.equal(models.state()["0.weight"], torch.full_like(models.state()["0.weight"], 0.5))


@both_engines
def test_reinitialise_draws_new_weights_and_keeps_the_dropout_streams(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked, model=DROPOUT_NET)
    use_streams(models, rng_for(models, [5, 6]))
    x, y = batch(models)
    models.step(models.sgd(lr=0.1), cross_entropy, x, y)
    streams = {n: t for n, t in models.state().items() if n.endswith("stream")}
    models.reinitialise(rng_for(models, [8, 9]))
    (seed, *_) = Rng([8], stacked=False).seeds()
    expected = build(DROPOUT_NET, classes=10, channels=1, seed=seed).to(torch.float64)
    first = member(models, 0)
    assert all(torch.equal(first[n], t) for n, t in expected.state_dict().items())
    assert len(streams) == 2
    assert all(torch.equal(models.state()[n], t) for n, t in streams.items())


@both_engines
def test_assign_keeps_what_is_not_given(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    before = models.state()
    states = [{"0.weight": torch.full_like(member(models, m)["0.weight"], float(m))} for m in range(models.size)]
    models.assign(joined(states, stacked=stacked))
    for m in range(models.size):
        assert set(member(models, m)["0.weight"].unique().tolist()) == {float(m)}
    assert all(torch.equal(models.state()[n], t) for n, t in before.items() if n != "0.weight")


@both_engines
def test_assign_takes_no_unknown_name(task, stacked):
    models = fresh(task, [1, 2], stacked=stacked)
    with pytest.raises(KeyError, match="no such"):
        models.assign({"no such": torch.zeros(2)})


def test_an_engine_adds_no_public_member(task):
    """What authors may use is declared in Ensemble, all of it, and is the same in both engines."""

    def public(names):
        return {name for name in names if not name.startswith("_")}

    declared = public({*dir(Ensemble), *Ensemble.__annotations__})
    for stacked in ENGINES.values():
        assert public(dir(fresh(task, [1, 2], stacked=stacked))) == declared


def test_what_an_ensemble_was_not_told():
    models = Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError, match="initial"):
        _ = models.initial
    with pytest.raises(RuntimeError, match="built"):
        models.reinitialise(Rng([0], stacked=False))


@pytest.mark.parametrize("spec", [SMALL_CNN, DROPOUT_NET], ids=["small_cnn", "dropout"])
def test_a_stacked_model_does_not_see_its_neighbours(task, spec):
    """Its data and weights alone count: other neighbours, the same result up to rounding."""
    tasks = {False: task, True: with_labels(task, "retain")}

    def trained(seeds, *, other=False):
        models = fresh(task, seeds, stacked=True, model=spec)
        use_streams(models, Rng(seeds, stacked=True))
        data = split(tasks[other], "retain", Rng(seeds, stacked=True))
        train(models, data, data, task.classes, tiny_options())
        return models

    a, b, c = trained([1, 2, 3]), trained([7, 2]), trained([2])
    assert max(differences(member(a, 1), member(b, 1)).values()) < 1e-12
    assert max(differences(member(a, 1), member(c, 0)).values()) < 1e-12
    assert max(differences(member(a, 1), member(trained([1, 2, 3], other=True), 1)).values()) > 1e-3
