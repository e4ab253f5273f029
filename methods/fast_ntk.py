"""Fast-NTK (Li et al. 2024): NTK forgetting (Golatkar et al. 2020) restricted to a small subset of the parameters.

The network is linearised in the subset S. The ridge solutions of the linear model on all training data D and on retain D_r,
w_lin = w₀ − (JᵀHJ + nλI)⁻¹ Jᵀe, differ by what forgetting would change: θ_S ← θ_S + scale · (w_lin(D_r) − w_lin(D)).

linearise_at: ``initial``, the weights training started from (the papers' text); ``trained`` (Golatkar's code); or
``consistent``: one Newton step on retain from w(D), the L2 term centred at w₀, exact where the model is linear; there the right-
hand side takes w(D) as stationary (``assume_stationary``) or not. loss: ``mse``, ``cross_entropy``, or ``as_trained``.
hessian: ``identity`` (Golatkar's code) or ``ggn``. scale: ``one``, or Golatkar's ``trapezium``. subset ``all`` is full NTK
forgetting. ``auto`` takes the first rung of a ladder of subsets (:func:`climb`); ``chosen`` says for every model which.

Source: arXiv 2312.14923 (no code published), SelectiveForgetting's notebook, whose ridge (0.1) is the default. Whether the paper
trains the head, or rescales, is not known; the ladder is not in it. It is made for originals fine-tuned in S from pre-trained
weights under a strong L2 pull; on others the linearisation is far from valid. MSE targets are one-hot (the notebook's: 2y − 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from harness import Data, Ensemble, Rng, UserError

from .linearised import Linearised, Solution
from .subsets import flat, ladder, subset_names


@dataclass
class FastNTK:
    subset: str  # bn, head, bn+head, prompts, prompts+head, last_norm, bn+head+last_convolution, all, or auto
    linearise_at: Literal["initial", "trained", "consistent"]
    loss: Literal["as_trained", "mse", "cross_entropy"]
    hessian: Literal["identity", "ggn"]
    ridge: float
    scale: Literal["one", "trapezium"]
    assume_stationary: bool
    solver: Literal["auto", "primal", "dual", "cg"]
    largest_matrix: int  # rows of the largest matrix that is factorised; beyond it, conjugate gradients
    chunk: int
    accuracy_loss_allowed: float  # auto: of the linear model on valid, and by forgetting on retain
    saturation: float  # auto: the growth of the effective dimension below which the next rung adds nothing
    chosen: list[dict[str, Any]] = field(default_factory=list, init=False)

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        if self.ridge <= 0:
            raise UserError(f"method.ridge={self.ridge}: expected more than 0")
        if self.scale == "trapezium" and self.linearise_at == "consistent":
            raise UserError("method.scale=trapezium is not defined for method.linearise_at=consistent")
        models.map_models(lambda net, initial: self.move(net, initial, data), rng, models.initial)

    def move(self, net: nn.Module, initial: nn.Module, data: Data) -> None:
        """Forget, in one plain model."""
        modes = [(module, module.training) for module in net.modules()]
        net.eval().requires_grad_(True)
        initial.eval().requires_grad_(True)
        solution = (self.climb if self.subset == "auto" else partial(self.solve, self.subset))(net, initial, data)
        with torch.no_grad():
            moved = (flat(net, solution.names) + solution.step).to(next(net.parameters()).dtype)
            nn.utils.vector_to_parameters(moved, [net.get_parameter(name) for name in solution.names])
        for module, training in modes:
            module.training = training

    def solve(self, subset: str, net: nn.Module, initial: nn.Module, data: Data) -> Solution:
        """The change of the parameters of ``subset``."""
        (x_r, y_r), (x_f, y_f) = data.retain.tensors(), data.forget.tensors()
        names = subset_names(net, subset)
        loss = data.training.loss if self.loss == "as_trained" else self.loss
        at = initial if self.linearise_at == "initial" else net
        linear = Linearised(at, names, loss, self.hessian, self.chunk)
        rows = (len(x_r) + len(x_f)) * data.classes
        solver = linear.solver_for(rows, self.largest_matrix) if self.solver == "auto" else self.solver
        retain, g_r = linear.curvature(x_r, y_r, solver)
        forget, g_f = linear.curvature(x_f, y_f, solver)
        both, c_r, c_f = retain + forget, len(x_r) * self.ridge, len(x_f) * self.ridge

        if self.linearise_at == "consistent":
            distance = flat(net, names) - flat(initial, names)
            pull = g_f + c_f * distance if self.assume_stationary else -(g_r + c_r * distance)
            of_all, step = torch.zeros_like(pull), retain.solve(c_r, pull)
        else:
            of_retain, of_all = -retain.solve(c_r, g_r), -both.solve(c_r + c_f, g_r + g_f)
            step = of_retain - of_all
            if self.scale == "trapezium":
                step = step * trapezium(step, flat(net, names) - flat(initial, names) - of_retain)
        return Solution(subset, linear, step, of_all, both, c_r + c_f)

    def climb(self, net: nn.Module, initial: nn.Module, data: Data) -> Solution:
        """The smallest subset that is good enough and whose effective dimension the next one hardly exceeds; or the last."""
        rungs = (self.solve(subset, net, initial, data) for subset in ladder(net))
        solution = next(rungs)
        for larger in rungs:
            grows = larger.effective_dimension > (1 + self.saturation) * solution.effective_dimension
            if not grows and self.good_enough(net, solution, data):
                break
            solution = larger
        self.chosen.append(solution.facts | {"parameters of the model": sum(map(torch.numel, net.parameters()))})
        return solution

    def good_enough(self, net: nn.Module, solution: Solution, data: Data) -> bool:
        """Whether the linear model expresses the task (on valid), forgets (down to accuracy on valid) and retains.

        Its own ridge solution stands for fine-tuning in the subset, so that nothing is trained.
        """
        after = Linearised(net, solution.names, "mse", "identity", self.chunk)
        on_retain, on_forget, on_valid = (
            after.accuracies(*split.tensors(), solution.step) for split in (data.retain, data.forget, data.valid)
        )
        fitted = solution.linear.accuracies(*data.valid.tensors(), solution.of_all)[1]
        expresses, retains = (fitted, on_valid[0]), (on_retain[1], on_retain[0])
        return on_forget[1] <= on_valid[0] and all(a >= b - self.accuracy_loss_allowed for a, b in (expresses, retains))


def trapezium(step: Tensor, err: Tensor) -> float:
    """(‖step‖ + 2 |cos| ‖err‖) / ‖step‖, cos between step and err (both branches of the published code come to this)."""
    return float(1 + 2 * (step @ err).abs() / step.norm().square().clamp(min=1e-30))
