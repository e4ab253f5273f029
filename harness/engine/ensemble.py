"""M models of one architecture, trained and edited as one: everything that a method sees of them.

Losses are those of ONE model. Two engines implement the interface, :class:`harness.engine.stacked.Stacked` and
:class:`harness.engine.sequential.Sequential`, and a method cannot tell which it runs on. All public members are for
authors of methods; what only the harness does with an ensemble is written in terms of them, in the modules beside.

``lead`` is the shape in front of what differs per model: ``(M,)`` in a stack, ``()`` for a single model. Batches are
[*lead, B, ...].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from harness.engine.losses import Loss, Net
from harness.streams import Rng

State = dict[str, Tensor]  # parameters and buffers by name, of one model or [*lead, ...]
Build = Callable[[int], nn.Module]  # a fresh model from a seed
_EVALUATION_BATCH = 512
_KEEP = "unlearned models must keep the architecture"


class Ensemble(ABC):
    """What a method sees: steps and optimisers, surgery on weights, snapshots, outputs."""

    lead: tuple[int, ...]
    """The shape in front of what differs per model: ``(M,)``, or ``()`` for a single model."""

    parameters: dict[str, Tensor]
    """What is trained, by name, each [*lead, ...]; written to by :meth:`assign`."""

    buffers: dict[str, Tensor]
    """Batch-norm statistics and the like, by name, each [*lead, ...]; written to by :meth:`assign`."""

    template: nn.Module
    """The architecture as a plain module, to look up layers and names; its weights may be those of any model."""

    def __init__(self, *, build: Build | None = None, bf16: bool = False) -> None:
        self._build = build
        self._bf16 = bf16
        self._frozen: set[str] = set()
        self._initial: Ensemble | None = None

    @property
    def size(self) -> int:
        """How many models there are."""
        return self.lead[0] if self.lead else 1

    @property
    def stacked(self) -> bool:
        """Whether the models are one stack, so that ``lead`` is ``(M,)``."""
        return bool(self.lead)

    @property
    def device(self) -> torch.device:
        """Where the models are, for tensors that a method makes itself."""
        return next(iter(self.parameters.values())).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the parameters, for tensors that a method makes itself."""
        return next(iter(self.parameters.values())).dtype

    # --- training -----------------------------------------------------------------------------------------------------

    def step(self, optimizer: torch.optim.Optimizer, loss: Loss, *batch: Any) -> None:
        """One optimiser step of every model on ``loss(net, *batch)``.

        A batch entry that is an Ensemble (a teacher, say) reaches the loss as that ensemble's net of the same model.
        """
        self.apply(optimizer, self.gradients(loss, *batch))

    @abstractmethod
    def gradients(self, loss: Loss, *batch: Any) -> dict[str, Tensor]:
        """Gradient of ``loss(net, *batch)`` by name of parameter, each [*lead, ...]; frozen ones are left out."""

    def apply(self, optimizer: torch.optim.Optimizer, gradients: dict[str, Tensor]) -> None:
        """Let ``optimizer`` step along ``gradients``; parameters without one stay as they are."""
        for name, parameter in self.parameters.items():
            gradient = gradients.get(name)
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)  # fused optimisers walk both by memory order
            parameter.grad = gradient
        optimizer.step()

    def example_gradients(self, loss: Loss, *batch: Tensor) -> dict[str, Tensor]:
        """Gradient of ``loss(net, *example)`` for every example as a batch of one, by name, each [*lead, B, ...].

        In evaluation mode only (RuntimeError otherwise): batch statistics of one example mean nothing.
        """
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in self.template.modules()):
            raise RuntimeError("gradients of single examples need evaluation mode: call eval() first")
        state = {name: tensor.detach() for name, tensor in (self.parameters | self.buffers).items()}
        wanted = {name: state.pop(name) for name in self.parameters if name not in self._frozen}

        def one(wanted: State, fixed: State, *example: Tensor) -> Tensor:
            with self._precision():
                return loss(net_of(self.template, wanted | fixed), *(entry[None] for entry in example))

        each = vmap(grad(one), in_dims=(None, None, *(0 for _ in batch)))
        gradients: dict[str, Tensor] = (vmap(each) if self.stacked else each)(wanted, state, *batch)
        return gradients

    def sgd(
        self, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> torch.optim.Optimizer:
        """SGD over the trainable parameters. Elementwise, so one optimiser serves all models."""
        return torch.optim.SGD(
            self._trainable(), lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov, fused=True
        )

    def adam(self, *, lr: float, weight_decay: float = 0.0, decoupled: bool = False) -> torch.optim.Optimizer:
        """Adam (``decoupled``: AdamW) over the trainable parameters."""
        kind = torch.optim.AdamW if decoupled else torch.optim.Adam
        return kind(self._trainable(), lr, weight_decay=weight_decay, fused=True)

    def freeze(self, trainable: Callable[[str], bool]) -> None:
        """From now on, only parameters whose name satisfies ``trainable`` get gradients and optimisers.

        ``freeze(lambda name: True)`` sets all of them free again.
        """
        self._frozen = {name for name in self.parameters if not trainable(name)}

    def train(self, mode: bool = True) -> None:
        """Batch norm by batch statistics, dropout on; every phase of a method starts in this mode."""
        self.template.train(mode)

    def eval(self) -> None:
        """Batch norm by running statistics, dropout off, until the next ``train()``."""
        self.train(False)

    def freeze_batch_norm(self) -> None:
        """Batch norm by running statistics, which stop moving, until the next ``train()``."""
        for module in self.template.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    # --- the weights -------------------------------------------------------------------------------------------------

    @abstractmethod
    def map_models(self, fn: Callable[..., nn.Module | None], rng: Rng, *extras: Any) -> None:
        """Run ``fn(net, *extras)`` on each model as a plain ``nn.Module``; what it leaves, or returns, is the new model.

        Inside, torch's, NumPy's and Python's global generators are that model's own streams. Of each extra, ``fn`` sees
        the part of its model: a tensor or dict of tensors [*lead, ...] without the lead, an Ensemble as a plain module.
        """

    def map_weights(self, fn: Callable[..., None], rng: Rng, *extras: Any) -> None:
        """Surgery: run ``fn`` on each model as a plain ``nn.Module``, without gradients. See :meth:`map_models`."""

        def without_gradients(net: nn.Module, *own: Any) -> None:
            with torch.no_grad():
                fn(net, *own)

        self.map_models(without_gradients, rng, *extras)

    def reinitialise(self, rng: Rng) -> None:
        """Give every model fresh random weights, drawn as its constructor draws them; dropout streams go on."""
        if self._build is None:
            raise RuntimeError("this ensemble does not know how its models are built")
        nets = [self._build(seed) for seed in rng.seeds()]
        self.assign(joined([net.state_dict() for net in nets], stacked=self.stacked))  # without the streams

    def state(self) -> State:
        """Copies of all parameters and buffers by name, each [*lead, ...]; :meth:`assign` brings them back."""
        return {name: t.detach().clone() for name, t in (self.parameters | self.buffers).items()}

    def assign(self, values: State) -> None:
        """Give the parameters and buffers named in ``values`` these values, each [*lead, ...]; the others stay.

        Raises KeyError for a name the models do not have.
        """
        tensors = self.parameters | self.buffers
        with torch.no_grad():
            for name, value in values.items():
                tensors[name].copy_(value)

    @abstractmethod
    def snapshot(self) -> Ensemble:
        """A frozen copy of the models as they are, in evaluation mode: a teacher."""

    @property
    def initial(self) -> Ensemble:
        """The models with the random weights the originals were trained from."""
        if self._initial is None:
            raise RuntimeError("this ensemble does not know its initial weights")
        return self._initial

    @initial.setter
    def initial(self, models: Ensemble) -> None:  # by the harness, before a method sees the ensemble
        self._initial = models

    # --- looking at what they do -----------------------------------------------------------------------------------

    def logits(self, x: Tensor) -> Tensor:
        """Outputs in evaluation mode on images x [n, C, H, W] shared by all models, float32 [*lead, n, classes]."""
        return self.evaluate(lambda net, x: net(x), x)

    @torch.no_grad()
    def evaluate(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        """``fn(net, x)`` in evaluation mode on images shared by all models, without gradients.

        x [n, C, H, W]; fn gives [n, ...] of one model -> float32 [*lead, n, ...]. Modes are as before afterwards.
        """
        modes = [(module, module.training) for module in self.template.modules()]
        self.template.eval()
        try:
            parts = [self._each(fn, part) for part in torch.split(x, _EVALUATION_BATCH)]
            return torch.cat(parts, dim=len(self.lead)).float()
        finally:
            for module, training in modes:
                module.training = training

    @abstractmethod
    def _each(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        """``fn(net, x)`` of every model, [*lead, ...]."""

    def _trainable(self) -> list[Tensor]:
        return [parameter for name, parameter in self.parameters.items() if name not in self._frozen]

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, torch.bfloat16) if self._bf16 else nullcontext()

    def _checked_state(self, net: nn.Module) -> State:
        """What this ensemble holds of a model, read from ``net``. Raises ValueError if the architecture changed."""
        state = {name: t.detach() for name, t in [*net.named_parameters(), *net.named_buffers()]}
        shapes = {name: t.shape[len(self.lead) :] for name, t in (self.parameters | self.buffers).items()}
        for name, shape in shapes.items():
            if name not in state:
                raise ValueError(f"the method removed '{name}' from the model; {_KEEP}")
            if state[name].shape != shape:
                change = f"from shape {tuple(shape)} to {tuple(state[name].shape)}"
                raise ValueError(f"the method changed '{name}' {change}; {_KEEP}")
        if added := [name for name, _ in net.named_parameters() if name not in self.parameters]:
            raise ValueError(f"the method added '{added[0]}' to the model; {_KEEP}")
        return {name: state[name] for name in shapes}


def net_of(template: nn.Module, state: State) -> Net:
    """A single model as its losses see it: the architecture with these parameters and buffers."""
    return lambda x: functional_call(template, state, (x,))


def joined(states: Sequence[State], *, stacked: bool) -> State:
    """The states of single models as that of an ensemble, [*lead, ...]; unstacked, there is one."""
    return {name: torch.stack([s[name] for s in states]) if stacked else states[0][name] for name in states[0]}
