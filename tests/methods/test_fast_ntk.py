import pytest
import torch
import torch.nn.functional as F
from harness.methods.fast_ntk import trapezium
from harness.methods.jacobians import jacobian
from harness.methods.linearised import Gram, Linearised, Rows
from harness.methods.subsets import flat, ladder, subset_names
from torch import nn
from torch.func import functional_call, jacrev

from harness.errors import UserError
from harness.models import head
from tests.methods.tiny_task import RESNET, built, constants, one, tiny_task

CASES = [("mse", "identity"), ("cross_entropy", "identity"), ("cross_entropy", "ggn")]


def linearised(loss="mse", hessian="identity", subset="bn+head"):
    models, data, _ = one()
    net = models.template.eval()
    return Linearised(net, subset_names(net, subset), loss, hessian, chunk=16), data


def with_live_norms(net):
    """Batch norms with statistics and weights that differ from 0 and 1."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.add_(0.3 * torch.randn_like(tensor))
            for tensor in (module.running_var, module.weight.data):
                tensor.mul_(1 + torch.rand_like(tensor))
    return net.eval()


def test_the_constants_are_the_sources_or_the_documented_choice():
    found = constants("fast_ntk")
    assert (found["ridge"], found["hessian"], found["linearise_at"], found["scale"]) == (
        0.1,
        "identity",
        "trained",
        "one",
    )


@pytest.mark.parametrize(
    ("subset", "model"), [("bn", None), ("bn+head", None), ("head", None), ("all", None), ("bn+head", RESNET)]
)
def test_jacobians_are_those_of_autograd(subset, model):
    models, data, _ = one(task=tiny_task(channels=3), model=model)
    net = with_live_norms(models.template)
    names = subset_names(net, subset)
    x = data.retain.tensors()[0][:2]
    found = jacobian(net, names, x)
    state = {n: t.detach() for n, t in [*net.named_parameters(), *net.named_buffers()]}
    chosen = {n: state.pop(n) for n in names}
    expected = jacrev(lambda theta: functional_call(net, theta | state, (x,)))(chosen)
    expected = torch.cat([expected[n].flatten(2) for n in names], dim=2)
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("loss", "hessian"), CASES)
def test_primal_dual_and_cg_agree(loss, hessian):
    linear, data = linearised(loss, hessian)
    x, y = data.retain.tensors()
    v = torch.randn(linear.size, dtype=torch.float64)
    solutions, gradients = [], []
    for solver in ("primal", "dual", "cg"):
        half, half_gradient = linear.curvature(x[:25], y[:25], solver)
        rest, rest_gradient = linear.curvature(x[25:], y[25:], solver)
        solutions.append((half + rest).solve(0.5, v))
        gradients.append(half_gradient + rest_gradient)
    for other in (1, 2):
        assert torch.allclose(solutions[other], solutions[0], rtol=1e-8, atol=1e-9)
        assert torch.allclose(gradients[other], gradients[0], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("loss", "hessian"), CASES)
def test_the_gradient_and_the_hessian_are_those_of_the_loss(loss, hessian):
    linear, data = linearised(loss, hessian, "head")  # linear in the head, so the Gauss-Newton matrix is the Hessian
    x, y = data.retain.tensors()
    curvature, gradient = linear.curvature(x, y, "primal")
    features = linear.net[:-1](x).detach()

    def total(theta):
        weight, bias = theta[:-3].view(3, -1), theta[-3:]
        logits = features @ weight.T + bias
        if loss == "mse":
            return (logits - F.one_hot(y, 3)).square().sum() / 2
        return F.cross_entropy(logits, y, reduction="sum")

    theta = flat(linear.net, linear.names)
    assert torch.allclose(gradient, torch.func.grad(total)(theta), rtol=1e-8)
    if (loss, hessian) != ("cross_entropy", "identity"):
        assert torch.allclose(curvature.matrix, torch.func.hessian(total)(theta), rtol=1e-7, atol=1e-9)


def test_the_two_algebraic_forms_agree():
    """The difference of two ridge solutions (one ridge in both) is P Jfᵀ M V of the paper."""
    linear, data = linearised()
    (x_r, y_r), (x_f, y_f) = data.retain.tensors(), data.forget.tensors()
    c = 0.7
    retain, g_r = linear.curvature(x_r, y_r, "primal")
    forget, g_f = linear.curvature(x_f, y_f, "primal")
    difference = -retain.solve(c, g_r) + (retain + forget).solve(c, g_r + g_f)

    def rows(x, y):
        jac = jacobian(linear.net, linear.names, x).flatten(0, 1)
        return jac, linear.residual(linear.net(x).detach(), y).flatten()

    (j_r, e_r), (j_f, e_f) = rows(x_r, y_r), rows(x_f, y_f)
    eye = torch.eye
    t_rr = j_r @ j_r.T + c * eye(len(j_r), dtype=torch.float64)
    t_ff = j_f @ j_f.T + c * eye(len(j_f), dtype=torch.float64)
    t_rf = j_r @ j_f.T
    project = lambda u: u - j_r.T @ torch.linalg.solve(t_rr, j_r @ u)  # noqa: E731
    schur = torch.linalg.inv(t_ff - t_rf.T @ torch.linalg.solve(t_rr, t_rf))
    v = e_f - t_rf.T @ torch.linalg.solve(t_rr, e_r)
    assert torch.allclose(project(j_f.T @ schur @ v), difference, rtol=1e-9, atol=1e-12)


def trained_head(data, features, which, ridge, start):
    """The exact minimiser of Σ ½‖f − y‖² + n λ/2 ‖w − start‖² over the head."""
    x, y = (torch.cat(parts) for parts in zip(*(split.tensors() for split in which), strict=True))
    h = torch.cat([features(x).detach(), torch.ones(len(x), 1, dtype=torch.float64)], dim=1)
    target = F.one_hot(y, 3).double()
    gram = h.T @ h + len(x) * ridge * torch.eye(h.shape[1], dtype=torch.float64)
    return torch.linalg.solve(gram, h.T @ (target - h @ start.T)).T + start


@pytest.mark.parametrize("at", ["initial", "trained", "consistent"])
@pytest.mark.parametrize("solver", ["primal", "dual", "cg"])
def test_it_is_exact_on_a_linear_model(at, solver):
    """With all but the head fixed and MSE the model is linear: forgetting gives the retrained head to 1e-8."""
    models, data, rng = one()
    net, ridge = models.template, 0.05
    net.eval()
    head = net[13]
    start = torch.cat([head.weight, head.bias[:, None]], dim=1).detach().clone()
    original = trained_head(data, net[:-1], (data.retain, data.forget), ridge, start)
    retrained = trained_head(data, net[:-1], (data.retain,), ridge, start)

    def set_head(value):
        with torch.no_grad():
            head.weight.copy_(value[:, :-1])
            head.bias.copy_(value[:, -1])

    set_head(original)
    if (
        at == "trained"
    ):  # the ridge is centred where the model is linearised: start there, as a first step of zero length
        set_head(start)
        original, retrained = start, start + retrained - original
    built("fast_ntk", subset="head", linearise_at=at, loss="mse", ridge=ridge, solver=solver).unlearn(models, data, rng)
    found = torch.cat([head.weight, head.bias[:, None]], dim=1)
    assert (found - retrained).abs().max() < 1e-8
    assert (original - retrained).abs().max() > 1e-4


def test_only_the_subset_moves_and_buffers_and_modes_stay():
    models, data, rng = one()
    before = models.state()
    built("fast_ntk", subset="bn").unlearn(models, data, rng)
    moved = {n for n, t in models.state().items() if not torch.equal(t, before[n])}
    assert moved == set(subset_names(models.template, "bn"))
    assert models.template.training


def climbed(good_enough=None, **settings):
    """What ``subset=auto`` reports, and the parameters it moved."""
    models, data, rng = one()
    before = models.state()
    method = built("fast_ntk", subset="auto", **settings)
    if good_enough is not None:
        method.good_enough = good_enough
    method.unlearn(models, data, rng)
    (chosen,) = method.chosen
    return chosen, {n for n, t in models.state().items() if not torch.equal(t, before[n])}, models.template


def test_the_ladder_is_climbed_while_a_criterion_fails():
    """Never good enough, or growing without end: the last rung. All fulfilled: the first."""
    last = ladder(one()[0].template)[-1]
    assert last == "bn+head+last_convolution"
    assert climbed(lambda *a: False, saturation=1e9)[0]["subset"] == last
    assert climbed(lambda *a: True, saturation=-1.0)[0]["subset"] == last
    chosen, moved, net = climbed(lambda *a: True, saturation=1e9)
    assert chosen["subset"] == "last_norm"
    assert moved == set(subset_names(net, "last_norm"))
    assert chosen["parameters"] == sum(net.get_parameter(n).numel() for n in moved)
    assert chosen["parameters of the model"] == sum(p.numel() for p in net.parameters())
    assert 0 < chosen["effective dimension"] <= chosen["parameters"]


def test_the_first_good_and_saturated_rung_is_taken():
    chosen, moved, net = climbed(lambda net, found, data: found.subset != "last_norm", saturation=1e9)
    assert chosen["subset"] == "bn"
    assert moved == set(subset_names(net, "bn"))


@pytest.mark.parametrize(
    ("forget", "retain", "fitted", "expected"),
    [(0.5, 0.9, 0.6, True), (0.7, 0.9, 0.6, False), (0.5, 0.8, 0.6, False), (0.5, 0.9, 0.5, False)],
)
def test_good_enough_is_expressing_forgetting_and_retaining(monkeypatch, forget, retain, fitted, expected):
    """The original is at 90 % on retain and 60 % on valid; 2 points may be lost."""
    models, data, _ = one()
    method = built("fast_ntk", subset="auto")
    net = models.template.eval()
    found = method.solve("bn", net, net, data)
    answers = {len(data.retain.tensors()[1]): (0.9, retain), len(data.forget.tensors()[1]): (1.0, forget)}

    def accuracies(self, x, y, step):
        if step is found.of_all:
            return (0.0, fitted)
        return answers.get(len(x), (0.6, 0.0))

    assert len(data.valid.tensors()[1]) not in answers
    monkeypatch.setattr(Linearised, "accuracies", accuracies)
    assert method.good_enough(net, found, data) is expected


def with_prompts():
    vit = {"_target_": "harness.models.vit_tiny", "layers": 2, "image_size": 8, "patch_size": 4, "prompts": 3}
    models, data, rng = one(model=vit)
    torch.manual_seed(0)
    nn.init.normal_(head(models.template).weight, std=0.1)  # it starts at zero, which no gradient passes
    return models, data, rng


def test_the_ladder_of_a_model_with_prompts_is_its_prompts():
    models, data, rng = with_prompts()
    net = models.template
    assert ladder(net) == ["prompts", "prompts+head"]
    before = models.state()
    method = built("fast_ntk", subset="prompts", ridge=0.01)
    method.unlearn(models, data, rng)
    moved = {n for n, t in models.state().items() if not torch.equal(t, before[n])}
    assert moved == {"prompts"}
    assert method.chosen == []


def test_jacobians_of_prompts_are_those_of_autograd():
    models, data, _ = with_prompts()
    net = models.template.eval()
    x = data.retain.tensors()[0][:2]
    found = jacobian(net, ["prompts"], x)
    for i in range(2):
        for c in range(found.shape[1]):
            (expected,) = torch.autograd.grad(net(x[i : i + 1])[0, c], net.get_parameter("prompts"))
            assert expected.abs().max() > 1e-6
            assert torch.allclose(found[i, c], expected.flatten(), rtol=1e-8, atol=1e-12)


def test_the_solver_goes_by_size():
    linear, _ = linearised()
    assert linear.size == 28 + 21
    assert linear.solver_for(rows=120, largest=1000) == "primal"
    assert linear.solver_for(rows=30, largest=1000) == "dual"
    assert linear.solver_for(rows=120, largest=20) == "cg"


def test_the_trapezium_scale():
    step, err = torch.tensor([3.0, 0.0]), torch.tensor([4.0, 3.0])
    assert trapezium(step, err) == pytest.approx((3 + 2 * (4 / 5) * 5) / 3)


def test_effective_dimension():
    rows = torch.randn(4, 7, dtype=torch.float64)
    expected = torch.trace(rows.T @ rows @ torch.linalg.inv(rows.T @ rows + 0.3 * torch.eye(7, dtype=torch.float64)))
    for curvature in (Gram(rows.T @ rows), Rows(rows)):
        assert curvature.effective_dimension(0.3) == pytest.approx(expected.item())
    assert Gram(torch.diag(torch.tensor([1.0, 3.0, 0.0]))).effective_dimension(1.0) == pytest.approx(0.5 + 0.75)


def test_bad_settings_are_refused():
    models, data, rng = one()
    for changes, message in (
        ({"ridge": 0.0}, "ridge"),
        ({"subset": "bm"}, "known: auto"),
        ({"scale": "trapezium", "linearise_at": "consistent"}, "not defined"),
    ):
        with pytest.raises(UserError, match=message):
            built("fast_ntk", **changes).unlearn(models, data, rng)
