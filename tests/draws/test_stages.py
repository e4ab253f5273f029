"""Outputs: functions of their stage and index alone; what is recorded of them; every built-in method in both engines."""

import itertools
from dataclasses import replace

import pytest
import torch
from harness.methods import retrain

from harness.draws.stages import EVALUATED, Training, Unlearning, evaluation_index
from harness.draws.store import Store
from harness.engine.build import Engine
from harness.errors import NotApplicable
from harness.registry import methods as registry
from harness.streams import Rng
from tests import helpers
from tests.helpers import (
    DROPOUT_NET,
    SMALL_CNN,
    built_in,
    colour_task,
    differences,
    identical,
    images_of,
    method,
    put,
    tiny_options,
    training,
    with_labels,
    with_noise,
)

MODELS = {"small_cnn": SMALL_CNN, "dropout": DROPOUT_NET}
both_models = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


@pytest.fixture(scope="module")
def originals(tmp_path_factory, task):
    """Three originals of each model and engine, in one store; those of the stacked engine are the sequential ones."""
    store = Store(tmp_path_factory.mktemp("originals"))
    store.put_task(task)
    stages = {}
    for name, model in MODELS.items():
        sequential, stacked = (training(task, model=model, stacked=stacked) for stacked in (False, True))
        put(store, sequential, [0, 1, 2])
        for draw in range(3):
            store.put(stacked.key, draw, *store.get(sequential.key, draw))
        stages[name] = sequential, stacked
    return store, stages


# --- every method in both engines -----------------------------------------------------------------------------------


PLAIN_SGD = ("retrain", "identity", "finetune", "gradient_ascent", "fanchuan", "sebastian")


def member(models, m):
    return {name: t[m] for name, t in models.state().items()}


@pytest.mark.parametrize(
    ("name", "model"),
    [(name, "dropout") for name in registry.available()] + [(name, "small_cnn") for name in PLAIN_SGD],
)
def test_every_method_is_the_same_in_both_engines(originals, task, name, model):
    """Weights, batch-norm statistics and dropout streams in float64, then the outputs on every split."""
    store, stages = originals
    sequential, stacked = (Unlearning(stage, built_in(name), 0, "paired") for stage in stages[model])
    draws = [0, 2]
    try:
        together = helpers.unlearn(stacked, draws, store, task)
    except NotApplicable as reason:
        pytest.skip(f"{name} does not apply to this task: {reason}")
    for m, draw in enumerate(draws):
        alone = helpers.unlearn(sequential, [draw], store, task)
        for key, tensor in alone.state().items():
            gap = (tensor - member(together, m)[key]).double().abs()
            # Adam divides by the size of a gradient: where that is nothing but rounding, rounding is made large.
            assert float(gap.max()) < (1e-9 if name in PLAIN_SGD else 1e-5), key
        assert differences(alone.state(), member(together, m)).keys() >= set(alone.template.state_dict())
        for split in EVALUATED:
            x = images_of(task).gather(torch.from_numpy(evaluation_index(task, split)))
            torch.testing.assert_close(alone.logits(x), together.logits(x)[m], rtol=0, atol=1e-6)
    assert not torch.equal(member(together, 0)["0.weight"], member(together, 1)["0.weight"])


@pytest.mark.parametrize("name", registry.available())
def test_a_methods_draws_do_not_depend_on_the_grouping(originals, name):
    store, stages = originals
    sequential, stacked = (Unlearning(stage, built_in(name), 0, "paired") for stage in stages["dropout"])
    try:
        first = sequential.make([1], store)[0]
    except NotApplicable as reason:
        pytest.skip(f"{name} does not apply to this task: {reason}")
    torch.rand(5)
    assert identical(first, sequential.make([1], store)[0])
    groups = [stacked.make(group, store) for group in ([2, 1], [1])]
    found = [draw for group in groups for draw in group if draw.index == 1]
    assert len(found) == 2
    for draw in found:
        assert max(differences(draw.tensors, first.tensors).values()) < 1e-6  # recorded in float32


@pytest.mark.parametrize("name", registry.available())
def test_methods_do_not_see_test_data(originals, task, tmp_path, name):
    """Other test images and labels: not a bit of the outputs elsewhere changes."""
    store, stages = originals
    stage = stages["small_cnn"][0]
    other = with_noise(with_labels(task, "test"), "test")
    store.put_task(other)
    elsewhere = replace(stage, task_hash=other.hash)
    store.put(elsewhere.key, 0, *store.get(stage.key, 0))
    a, b = Unlearning(stage, built_in(name), 0, "paired"), Unlearning(elsewhere, built_in(name), 0, "paired")
    try:
        before, after = a.make([0], store)[0], b.make([0], store)[0]
    except NotApplicable as reason:
        pytest.skip(f"{name} does not apply to this task: {reason}")
    for split in ("retain", "forget", "valid"):
        assert torch.equal(before.tensors[f"logits/{split}"], after.tensors[f"logits/{split}"])
    assert not torch.equal(before.tensors["logits/test"], after.tensors["logits/test"])


@pytest.mark.parametrize("name", registry.available())
def test_the_operations_of_every_method_can_be_counted(originals, name):
    store, stages = originals
    stage = Unlearning(stages["small_cnn"][0], built_in(name), 0, "paired")
    try:
        counted = stage.flops(store)
    except NotApplicable as reason:
        pytest.skip(f"{name} does not apply to this task: {reason}")
    assert (counted > 1e4) is (name != "identity")


# --- a draw is a function of its index ------------------------------------------------------------------------------


@both_models
def test_sequential_draws_are_equal_bit_for_bit_in_any_order(task, store, model):
    stage = training(task, model=model, precision="float32")
    first = {draw: stage.make([draw], store)[0] for draw in (0, 1, 2, 3)}
    again = {draw: stage.make([draw], store)[0] for draw in (3, 1, 0, 2)}
    torch.rand(7)  # what else happens in the process does not matter
    assert all(identical(first[draw], again[draw]) for draw in first)
    assert all(not identical(first[a], first[b]) for a, b in itertools.combinations(first, 2))


@both_models
def test_stacked_draws_do_not_depend_on_the_stack(task, store, model):
    """Equal up to rounding. Not bit for bit: kernels sum in another order in stacks of other sizes."""
    stage = training(task, model=model, stacked=True)
    found = [
        next(draw for draw in stage.make(group, store) if draw.index == 2)
        for group in ([0, 1, 2, 3], [2, 3], [2], [3, 2], [2, 0, 1, 3])
    ]
    for other in found[1:]:
        weights = {n for n in found[0].tensors if n.startswith("weights/")}
        gaps = differences(found[0].tensors, other.tensors)
        assert max(gaps[n] for n in weights) < 1e-12
        assert max(gaps.values()) < 1e-6
    assert identical(found[0], next(d for d in stage.make([0, 1, 2, 3], store) if d.index == 2))


@both_models
def test_originals_of_both_engines_agree(task, store, model):
    stacked = training(task, model=model, stacked=True, schedule="cosine").make([4, 9], store)
    for draw in stacked:
        alone = training(task, model=model, schedule="cosine").make([draw.index], store)[0]
        assert set(alone.tensors) == set(draw.tensors)
        weights = {n for n in draw.tensors if n.startswith("weights/")}
        gaps = differences(alone.tensors, draw.tensors)
        assert max(gaps[n] for n in weights) < 1e-9
        assert max(gaps.values()) < 1e-6


def test_three_channels(tmp_path):
    """Channels-last images and weights in both engines."""
    task, store = colour_task(), Store(tmp_path)
    store.put_task(task)
    stacked = training(task, stacked=True).make([0, 1], store)
    for draw in stacked:
        gaps = differences(training(task).make([draw.index], store)[0].tensors, draw.tensors)
        assert max(gap for name, gap in gaps.items() if name.startswith("weights/")) < 1e-9


def test_roles_and_seeds_share_nothing(task, store):
    base = training(task)
    others = [
        training(task, role="retrained"),
        replace(base, seed=1),
    ]
    first = base.fresh(task, [0], base.engine).state()["0.weight"]
    for stage in others:
        assert not torch.equal(stage.fresh(task, [0], stage.engine).state()["0.weight"], first)
        assert stage._seeds("order", [0]) != base._seeds("order", [0])
    assert (
        len({*base._seeds("init", range(50)), *base._seeds("order", range(50)), *base._seeds("dropout", range(50))})
        == 150
    )


def test_unlearning_streams_are_those_of_draw_seed_and_method(task):
    stage = Unlearning(training(task, stacked=True), built_in("finetune"), 0, "paired")
    others = [
        replace(stage, seed=1),
        replace(stage, method=built_in("retrain")),
        replace(stage, originals=replace(stage.originals, seed=1)),
    ]
    seeds = [s._rng(purpose, [0, 1]).seeds() for s in [stage, *others] for purpose in ("order", "noise", "dropout")]
    assert len({seed for pair in seeds for seed in pair}) == 24
    slower = replace(stage, method=built_in("finetune", lr=0.5))
    assert slower._rng("order", [0, 1]).seeds() == stage._rng("order", [0, 1]).seeds()


# --- who sees what --------------------------------------------------------------------------------------------------


def test_retrained_models_never_see_forget_data(task, store):
    other = with_noise(with_labels(task, "forget"), "forget")
    store.put_task(other)
    for role, same in (("retrained", True), ("original", False)):
        a, b = (training(t, role=role).make([0], store)[0].tensors["logits/retain"] for t in (task, other))
        assert torch.equal(a, b) is same


@pytest.mark.parametrize("role", ["original", "retrained"])
def test_training_sees_no_test_data_and_valid_only_to_choose(task, store, role):
    test, valid = with_noise(task, "test"), with_labels(task, "valid")
    for changed, checkpoint, same in ((test, "best", True), (valid, "last", True)):
        store.put_task(changed)
        options = {"role": role, "checkpoint": checkpoint, "epochs": 4, "lr": 0.4}
        a, b = (training(t, **options).make([0], store)[0].tensors["logits/retain"] for t in (task, changed))
        assert torch.equal(a, b) is same


# --- what is recorded -----------------------------------------------------------------------------------------------


def test_what_a_draw_holds(task, store):
    original, retrained = training(task), training(task, role="retrained")
    put(store, original, [0])
    sizes = task.sizes() | {"retain": len(task.retain_sample)}
    method_draw = Unlearning(original, built_in("identity"), 0, "paired").make([0], store)[0]
    for draw, weights in (
        (original.make([0], store)[0], True),
        (retrained.make([0], store)[0], False),
        (method_draw, False),
    ):
        assert any(name.startswith("weights/") for name in draw.tensors) is weights
        for split in EVALUATED:
            assert draw.tensors[f"logits/{split}"].shape == (sizes[split], 10)
            assert draw.tensors[f"logits/{split}"].dtype == torch.float32
        assert draw.facts["seconds"] >= 0


@pytest.mark.parametrize("stacked", [False, True])
def test_what_a_method_chose_for_each_model_is_kept_with_its_draw(originals, stacked):
    store, stages = originals
    stage = stages["small_cnn"][stacked]
    draws = [1, 2] if stacked else [1]
    made = Unlearning(stage, built_in("fast_ntk", subset="auto"), 0, "paired").make(draws, store)
    for draw in made:
        store.put("chosen", draw.index, draw.tensors, draw.facts)
        facts = store.get("chosen", draw.index)[1]["chosen"]
        assert facts["subset"] in ("last_norm", "bn", "bn+head", "bn+head+last_convolution")
        assert 0 < facts["parameters"] < facts["parameters of the model"]
    made = Unlearning(stage, built_in("fast_ntk"), 0, "paired").make(draws, store)
    assert all("chosen" not in draw.facts for draw in made)


def test_logits_are_those_of_the_stored_weights_in_evaluation_mode(task, store):
    stage = training(task, model=DROPOUT_NET)
    put(store, stage, [0])
    draw = stage.make([0], store)[0]
    net = helpers.fresh(task, [0], stacked=False, model=DROPOUT_NET).template.eval()
    weights = {n.removeprefix("weights/"): t for n, t in draw.tensors.items() if n.startswith("weights/")}
    net.load_state_dict({n: weights[n] for n in net.state_dict()})
    for split in EVALUATED:
        x = images_of(task).gather(torch.from_numpy(evaluation_index(task, split)))
        with torch.no_grad():
            torch.testing.assert_close(net(x).float(), draw.tensors[f"logits/{split}"], rtol=0, atol=1e-6)


def test_restored_models_know_where_they_come_from(originals, task):
    store, stages = originals
    for stage in stages["small_cnn"]:
        draws = [2, 0] if stage.engine.stacked else [2]
        models = stage.restore(draws, store)
        stored = store.get(stage.key, 2, prefix="weights/")[0]
        state, initial = models.state(), models.initial.state()
        fresh = stage.fresh(task, [2], Engine("cpu", False)).state()
        for name, tensor in stored.items():
            name = name.removeprefix("weights/")
            assert torch.equal(state[name][0] if models.stacked else state[name], tensor)
            assert torch.equal(initial[name][0] if models.stacked else initial[name], fresh[name])


def test_single_source_starts_from_original_0(originals):
    store, stages = originals
    for stage in stages["small_cnn"]:
        single = Unlearning(stage, built_in("identity"), 0, "single")
        paired = Unlearning(stage, built_in("identity"), 0, "paired")
        assert single.parents([3, 1]) == [0, 0]
        assert paired.parents([3, 1]) == [3, 1]
        a, b = single.make([2], store)[0], paired.make([0], store)[0]
        assert torch.equal(a.tensors["logits/test"], b.tensors["logits/test"])
        assert single.key != paired.key
    finetuned = Unlearning(stages["small_cnn"][0], built_in("finetune", batch_size=16), 0, "single")
    assert not torch.equal(*(finetuned.make([d], store)[0].tensors["logits/test"] for d in (0, 1)))


def test_the_retrain_row_trains_as_the_reference_pool_does(task, store, monkeypatch):
    """With the retrained models' own rule for the best epoch, where that is not the originals'."""
    stage = training(task, checkpoint="best", checkpoint_from=0, retrained_checkpoint_from=1)
    put(store, stage, [0])
    seen, train = [], retrain.train
    monkeypatch.setattr(retrain, "train", lambda *arguments: seen.append(arguments[-1]) or train(*arguments))
    Unlearning(stage, built_in("retrain"), 0, "paired").make([0], store)
    (options,) = seen
    assert options == stage.options.for_retrained()
    assert options.checkpoint_from == 1


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_methods_run_in_the_precision_of_training(task, store, precision):
    stage = training(task, precision=precision)
    put(store, stage, [0])
    assert stage.restore([0], store).dtype == tiny_options(precision=precision).dtype
    Unlearning(stage, built_in("sebastian"), 0, "paired").make([0], store)


def test_warming_up_leaves_no_trace(task, store):
    stage = replace(training(task), seed=123)
    cold, warm = stage.make([0], store)[0], stage.make([0], store)[0]
    assert identical(cold, warm)


def test_operations_are_counted_without_a_trace(originals, task):
    store, stages = originals
    counts = {}
    for stage in stages["small_cnn"]:  # both on a single plain model
        stages_ = {name: Unlearning(stage, built_in(name), 0, "paired") for name in ("identity", "finetune", "retrain")}
        counts[stage.engine.stacked] = {name: s.flops(store) for name, s in stages_.items()}
        before = stages_["finetune"].make([0], store)[0]
        assert identical(before, stages_["finetune"].make([0], store)[0])
    assert counts[False] == counts[True]
    assert counts[False]["identity"] == 0
    # 44 retain images once, against twice (two epochs)
    assert counts[False]["retrain"] == pytest.approx(2 * counts[False]["finetune"], rel=1e-6)


# --- identity -------------------------------------------------------------------------------------------------------


def test_every_part_of_a_trainings_identity_counts(task):
    base = training(task)
    others = [
        replace(base, task_hash="0" * 32),
        replace(base, model=DROPOUT_NET),
        replace(base, model={**SMALL_CNN, "widths": [4, 6, 9]}),
        replace(base, options=tiny_options(lr=0.06)),
        replace(base, options=tiny_options(precision="float32")),
        replace(base, role="retrained"),
        replace(base, seed=1),
        replace(base, engine=Engine("cpu", True)),
        replace(base, engine=Engine("cuda", False)),
    ]
    assert len({stage.key for stage in [base, *others]}) == len(others) + 1
    assert replace(base, engine=Engine("cuda:1", False)).key == replace(base, engine=Engine("cuda:0", False)).key
    assert isinstance(base, Training)
    assert base.key == training(task).key


def test_every_part_of_an_unlearnings_identity_counts(task, monkeypatch):
    base = Unlearning(training(task), built_in("finetune"), 0, "paired")
    others = [
        replace(base, originals=training(task, lr=0.06)),
        replace(base, method=built_in("finetune", lr=0.06)),
        replace(base, method=built_in("retrain")),
        replace(base, method=method("reset_head")),
        replace(base, seed=1),
        replace(base, source="single"),
    ]
    assert len({stage.key for stage in [base, *others]}) == len(others) + 1
    monkeypatch.setattr("harness.draws.stages.UNLEARNING_VERSION", 99)
    assert replace(base).key != base.key


def test_streams_of_an_ensemble_are_independent_of_its_size(task):
    stage = training(task)
    rng = Rng(stage._seeds("order", range(4)), stacked=True)
    assert torch.equal(rng.permutation(9)[3], Rng(stage._seeds("order", [3]), stacked=False).permutation(9))
