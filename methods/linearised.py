"""A network linearised in some of its parameters: Jacobians, and ridge problems on them. For ONE plain module.

With J [n·C, P] the Jacobian of the logits on n images, e [n·C] the residuals and H the loss Hessian per image,
everything needed is the gradient Jᵀe and the solution of (JᵀHJ + c I) d = v. :func:`curvature` gives JᵀHJ in the form
that is cheapest to solve with: the P × P matrix (``Gram``, primal), the rows H^½ J (``Rows``, dual, by Woodbury's
identity) or, where neither fits, products with it (``Products``, conjugate gradients). All three add up over disjoint
data. Algebra is in float64. The targets of MSE are one-hot.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp, vjp

from .jacobians import function_of, jacobian

# --- curvature ------------------------------------------------------------------------------------------------------


class Curvature(Protocol):
    """JᵀHJ over some data."""

    def solve(self, c: float, v: Tensor) -> Tensor:
        """(JᵀHJ + c I)⁻¹ v for c > 0, v [P]."""

    def effective_dimension(self, c: float) -> float:
        """tr(G (G + c I)⁻¹), G = JᵀHJ: how many directions the data determine; NaN where it would cost too much."""

    def __add__(self, other: Curvature) -> Curvature: ...


@dataclass(frozen=True)
class Gram:
    matrix: Tensor  # [P, P]

    def solve(self, c: float, v: Tensor) -> Tensor:
        factor = torch.linalg.cholesky(self.matrix + c * torch.eye(len(v), dtype=v.dtype, device=v.device))
        return torch.cholesky_solve(v[:, None], factor)[:, 0]

    def effective_dimension(self, c: float) -> float:
        return _effective_dimension(self.matrix, c)

    def __add__(self, other: Curvature) -> Gram:
        assert isinstance(other, Gram)
        return Gram(self.matrix + other.matrix)


@dataclass(frozen=True)
class Rows:
    rows: Tensor  # A = H^½ J, [n·C, P]

    def solve(self, c: float, v: Tensor) -> Tensor:
        kernel = self.rows @ self.rows.T
        kernel.diagonal().add_(c)
        inner = torch.cholesky_solve((self.rows @ v)[:, None], torch.linalg.cholesky(kernel))[:, 0]
        return (v - self.rows.T @ inner) / c

    def effective_dimension(self, c: float) -> float:
        return _effective_dimension(self.rows @ self.rows.T, c)  # its eigenvalues are those of JᵀHJ, but for zeros

    def __add__(self, other: Curvature) -> Rows:
        assert isinstance(other, Rows)
        return Rows(torch.cat([self.rows, other.rows]))


@dataclass(frozen=True)
class Products:
    times: Callable[[Tensor], Tensor]
    tolerance: float = 1e-10
    iterations: int = 1000

    def solve(self, c: float, v: Tensor) -> Tensor:
        solution, residual = torch.zeros_like(v), v
        direction, size = residual, residual @ residual
        target = self.tolerance**2 * size
        for _ in range(self.iterations):
            if size <= target:
                break
            image = self.times(direction) + c * direction
            step = size / (direction @ image)
            solution, residual = solution + step * direction, residual - step * image
            size, before = residual @ residual, size
            direction = residual + size / before * direction
        return solution

    def effective_dimension(self, c: float) -> float:
        return float("nan")

    def __add__(self, other: Curvature) -> Products:
        assert isinstance(other, Products)
        return Products(lambda v: self.times(v) + other.times(v), self.tolerance, self.iterations)


def _effective_dimension(matrix: Tensor, c: float) -> float:
    values = torch.linalg.eigvalsh(matrix).clamp(min=0)
    return float((values / (values + c)).sum())


def _at(f: Callable[..., Tensor], x: Tensor, theta: dict[str, Tensor]) -> Tensor:
    return f(theta, x)


# --- the pieces of a ridge problem ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linearised:
    """A network linearised where it stands, in ``names``, with a loss. ``ggn`` is the loss Hessian of cross entropy."""

    net: nn.Module  # in evaluation mode
    names: list[str]
    loss: Literal["mse", "cross_entropy"]
    hessian: Literal["identity", "ggn"]
    chunk: int

    @property
    def size(self) -> int:
        return sum(self.net.get_parameter(name).numel() for name in self.names)

    def solver_for(self, rows: int, largest: int) -> str:
        """The cheapest of primal (P × P), dual (rows × rows) and cg, for matrices of at most ``largest`` rows."""
        if self.size <= min(rows, largest):
            return "primal"
        return "dual" if rows <= largest else "cg"

    def curvature(self, x: Tensor, y: Tensor, solver: str) -> tuple[Curvature, Tensor]:
        """JᵀHJ and Jᵀe, both sums over the images."""
        if solver == "cg":
            return self._products(x, y)
        rows: list[Tensor] = []
        gradient = torch.zeros(self.size, dtype=torch.float64, device=x.device)
        gram = gradient.new_zeros(self.size, self.size) if solver == "primal" else None
        for part, labels in self._chunks(x, y):
            jac = jacobian(self.net, self.names, part).double()
            with torch.no_grad():
                logits = self.net(part).double()
            gradient += torch.einsum("ncp,nc->p", jac, self.residual(logits, labels))
            root = self.root(logits)
            scaled = (jac if root is None else torch.einsum("nck,ncp->nkp", root, jac)).flatten(0, 1)
            if gram is None:
                rows.append(scaled)
            else:
                gram.addmm_(scaled.T, scaled)
        return (Rows(torch.cat(rows)) if gram is None else Gram(gram)), gradient

    def accuracies(self, x: Tensor, y: Tensor, step: Tensor) -> tuple[float, float]:
        """Accuracy of the network as it stands, and of the linear model after ``step`` [P]."""
        before, after = [], []
        for part, labels in self._chunks(x, y):
            with torch.no_grad():
                logits = self.net(part).double()
            moved = logits + jacobian(self.net, self.names, part).double() @ step
            before.append(logits.argmax(-1) == labels)
            after.append(moved.argmax(-1) == labels)
        return torch.cat(before).double().mean().item(), torch.cat(after).double().mean().item()

    def residual(self, logits: Tensor, y: Tensor) -> Tensor:
        """∂ loss / ∂ logits, [n, C]."""
        target = F.one_hot(y, logits.shape[-1]).to(logits.dtype)
        return (logits if self.loss == "mse" else F.softmax(logits, dim=-1)) - target

    def root(self, logits: Tensor) -> Tensor | None:
        """B [n, C, C] with B Bᵀ = diag(p) − p pᵀ; None for the identity."""
        if self.hessian == "identity" or self.loss == "mse":
            return None
        p = F.softmax(logits, dim=-1)
        return torch.diag_embed(p.sqrt()) - p[:, :, None] * p.sqrt()[:, None, :]

    def _products(self, x: Tensor, y: Tensor) -> tuple[Products, Tensor]:
        chosen, f = function_of(copy.deepcopy(self.net).double(), self.names)
        sizes = [chosen[name].numel() for name in self.names]

        def unflatten(v: Tensor) -> dict[str, Tensor]:
            return {n: part.view(chosen[n].shape) for n, part in zip(self.names, torch.split(v, sizes), strict=True)}

        def forward(f: Callable[..., Tensor], v: Tensor) -> Tensor:
            return cast(Tensor, jvp(f, (chosen,), (unflatten(v),))[1])

        def total(of_chunk: Callable[[Tensor, Tensor, Callable[[Tensor], Tensor]], Tensor]) -> Tensor:
            """Σ over chunks of Jᵀ of_chunk(logits, labels, J·)."""
            summed = torch.zeros(sum(sizes), dtype=torch.float64, device=x.device)
            for part, labels in self._chunks(x.double(), y):
                on_part = partial(_at, f, part)
                logits, back = vjp(on_part, chosen)[:2]
                weights = of_chunk(logits, labels, partial(forward, on_part))
                summed += torch.cat([back(weights)[0][name].flatten() for name in self.names])
            return summed

        def curved(v: Tensor) -> Tensor:
            def weights(logits: Tensor, labels: Tensor, times_jacobian: Callable[[Tensor], Tensor]) -> Tensor:
                root, moved = self.root(logits), times_jacobian(v)
                return moved if root is None else torch.einsum("nck,njk,nj->nc", root, root, moved)

            return total(weights)

        return Products(curved), total(lambda logits, labels, _: self.residual(logits, labels))

    def _chunks(self, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(torch.split(x, self.chunk), torch.split(y, self.chunk), strict=True)


@dataclass(frozen=True)
class Solution:
    """What forgetting in one subset comes to. step: the change of its parameters, [P]; of_all: w_lin(D) from where the network
    is linearised, [P]; c: the ridge of all data, n λ."""

    subset: str
    linear: Linearised
    step: Tensor
    of_all: Tensor
    curvature: Curvature  # of all data
    c: float

    @property
    def names(self) -> list[str]:
        return self.linear.names

    @cached_property
    def effective_dimension(self) -> float:
        return self.curvature.effective_dimension(self.c)

    @property
    def facts(self) -> dict[str, str | float]:
        dimension = self.effective_dimension
        known: dict[str, float] = {} if math.isnan(dimension) else {"effective dimension": dimension}
        return {"subset": self.subset, "parameters": len(self.step), **known}
