import pytest
import torch
from harness.methods.kookmin import redraw

from harness.engine.losses import cross_entropy
from tests.methods.tiny_task import built, constants, data_of, ensemble, one, rng_of, tiny_task


def test_the_constants_are_the_teams():
    assert constants("kookmin") == {
        "reinitialise": 0.3,
        "scope": "layer",
        "kept_gradient": 0.1,
        "epochs": 5,
        "lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 64,
    }


def test_thirty_percent_of_each_convolution_with_the_smallest_score_are_redrawn():
    models, data, rng = one()
    method = built("kookmin")
    scores = method.scores(models, data)
    masks = method.least_disputed(scores, models)
    before = models.state()
    models.map_weights(redraw, rng, masks)
    after = models.state()
    for name, weight in before.items():
        changed = weight != after[name]
        if name not in masks:
            assert not changed.any()
            continue
        assert torch.equal(changed, masks[name])
        assert changed.sum() == round(0.3 * weight.numel())
        assert scores[name][changed].max() <= scores[name][~changed].min()


def test_the_score_is_the_gap_between_the_two_gradients():
    models, data, _ = one()
    models.eval()
    x, y = data.forget.tensors()
    forget = models.gradients(cross_entropy, x, y)["0.weight"]
    method = built("kookmin")
    data.retain.random_subset = lambda n: data.forget  # the same images on both sides: every score is zero
    assert method.scores(models, data)["0.weight"].abs().max() < 1e-12
    assert forget.abs().max() > 1e-3


def test_the_global_scope_shares_the_thirty_percent_between_layers():
    models, data, _ = one()
    method = built("kookmin", scope="global")
    masks = method.least_disputed(method.scores(models, data), models)
    assert sum(m.sum() for m in masks.values()) == round(0.3 * sum(m.numel() for m in masks.values()))
    assert len({round(float(m.double().mean()), 2) for m in masks.values()}) > 1


def test_kept_convolution_weights_move_at_a_tenth():
    """One step without momentum and decay: the change is -lr · gradient where redrawn, a tenth of it elsewhere."""
    models, data, rng = one()
    method = built("kookmin", epochs=1, momentum=0.0, weight_decay=0.0, lr=1e-3)
    found = {}
    full = models.gradients

    def gradients(loss, *batch):
        found["start"] = models.state()
        found["gradients"] = full(loss, *batch)
        return dict(found["gradients"])

    masks = method.least_disputed
    models.gradients = gradients
    method.least_disputed = lambda *a: found.setdefault("masks", masks(*a))
    method.unlearn(models, data, rng)
    for name, parameter in models.parameters.items():
        moved = (found["start"][name] - parameter) / 1e-3
        kept = ~found["masks"][name] if name in found["masks"] else torch.zeros_like(parameter, dtype=torch.bool)
        factor = torch.where(kept, 0.1, 1.0).double()
        assert torch.allclose(moved, factor * found["gradients"][name], atol=1e-8), name


def test_the_rate_warms_up_and_decays():
    assert [built("kookmin").warm_up_and_decay(e) for e in range(5)] == pytest.approx([1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])


def test_each_model_of_a_stack_has_its_own_weights_redrawn():
    task = tiny_task()
    models = ensemble(task, [0, 1], stacked=True)
    data = data_of(task, [0, 1], stacked=True)
    method = built("kookmin")
    masks = method.least_disputed(method.scores(models, data), models)
    models.map_weights(redraw, rng_of([0, 1], stacked=True), masks)
    assert not torch.equal(masks["0.weight"][0], masks["0.weight"][1])
    assert (masks["0.weight"].flatten(1).sum(1) == round(0.3 * 36)).all()
