"""M models of one architecture, trained and edited as one.

A method sees this interface only, and its losses are those of ONE model. Two engines implement it:

* :class:`Stacked` holds every parameter as one tensor [M, ...] and runs all models in one ``vmap``: what a GPU needs.
* :class:`Sequential` holds a single model and runs plain autograd: what a CPU core needs, where stacking gains nothing.
  Its ensembles have one member; worker processes run many of them.

``lead`` is the shape in front of what differs per model: ``(M,)`` or ``()``. Batches are [*lead, B, ...].
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from harness.engine.losses import Net
from harness.engine.streams import Rng, global_seed
from harness.models import Dropout, head

Loss = Callable[..., Tensor]
_EVALUATION_BATCH = 512


class Ensemble(ABC):
    """Common to both engines: optimisers, steps, surgery, snapshots."""

    lead: tuple[int, ...]
    parameters: dict[str, Tensor]  # [*lead, ...], what is trained
    buffers: dict[str, Tensor]  # [*lead, ...], batch-norm statistics and the like
    template: nn.Module  # the architecture; in the sequential engine also the holder of the weights

    def __init__(self, *, bf16: bool = False) -> None:
        self.bf16 = bf16
        self._frozen: set[str] = set()
        self._initial: Ensemble | None = None
        self._build: Callable[[int], nn.Module] | None = None

    # --- what a method does ---------------------------------------------------------------------------------------

    def step(self, optimizer: torch.optim.Optimizer, loss: Loss, *batch: Any) -> None:
        """One optimiser step of every model on ``loss(net, *batch)``.

        A batch entry that is an Ensemble (a teacher, say) reaches the loss as that ensemble's net of the same model.
        """
        self.apply(optimizer, self.gradients(loss, *batch))

    @abstractmethod
    def gradients(self, loss: Loss, *batch: Any) -> dict[str, Tensor]:
        """Gradient of ``loss(net, *batch)`` by name of parameter, each [*lead, ...]; frozen parameters are left out."""

    def example_gradients(self, loss: Loss, *batch: Tensor) -> dict[str, Tensor]:
        """Gradient of ``loss(net, *example)`` for every example, seen as a batch of one: by name, each [*lead, B, ...].

        In evaluation mode only (RuntimeError otherwise): batch statistics of one example mean nothing.
        """
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in self.template.modules()):
            raise RuntimeError("gradients of single examples need evaluation mode: call eval() first")
        state = {name: tensor.detach() for name, tensor in (self.parameters | self.buffers).items()}
        wanted = {name: state.pop(name) for name in self.parameters if name not in self._frozen}

        def one(wanted: dict[str, Tensor], fixed: dict[str, Tensor], *example: Tensor) -> Tensor:
            with self._precision():
                return loss(_net(self.template, wanted | fixed), *(entry[None] for entry in example))

        each = vmap(grad(one), in_dims=(None, None, *(0 for _ in batch)))
        return (vmap(each) if self.stacked else each)(wanted, state, *batch)

    def assign(self, values: dict[str, Tensor]) -> None:
        """Give the parameters named in ``values`` these values, each [*lead, ...]."""
        with torch.no_grad():
            for name, value in values.items():
                self.parameters[name].copy_(value)

    def apply(self, optimizer: torch.optim.Optimizer, gradients: dict[str, Tensor]) -> None:
        """Let ``optimizer`` step along ``gradients``; parameters without one stay as they are."""
        for name, parameter in self.parameters.items():
            gradient = gradients.get(name)
            if gradient is not None and gradient.stride() != parameter.stride():
                gradient = torch.empty_like(parameter).copy_(gradient)  # fused optimisers walk both by memory order
            parameter.grad = gradient
        optimizer.step()

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
        """From now on only the parameters whose name satisfies ``trainable`` get gradients and optimisers."""
        self._frozen = {name for name in self.parameters if not trainable(name)}

    @abstractmethod
    def map_models(self, fn: Callable[..., nn.Module | None], rng: Rng, *extras: Any) -> None:
        """Run ``fn(net, *extras)`` on each model as a plain ``nn.Module``; what it leaves (or returns) is the new model.

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
        self.load_models([net.state_dict() for net in nets])  # without what is not persistent: the streams

    def train(self, mode: bool = True) -> None:
        """Batch norm by batch statistics, dropout on; every phase of a method starts in this mode."""
        self.template.train(mode)

    def eval(self) -> None:
        self.train(False)

    def freeze_batch_norm(self) -> None:
        """Batch norm by running statistics, which stop moving, until the next ``train()``."""
        for module in self.template.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    @abstractmethod
    def snapshot(self) -> Ensemble:
        """A frozen copy of the models as they are, in evaluation mode: a teacher."""

    @property
    def initial(self) -> Ensemble:
        """The models with the random weights the originals were trained from."""
        if self._initial is None:
            raise RuntimeError("this ensemble does not know its initial weights")
        return self._initial

    # --- what the harness does --------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        return self.lead[0] if self.lead else 1

    @property
    def stacked(self) -> bool:
        return bool(self.lead)

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.parameters.values())).dtype

    @property
    def device(self) -> torch.device:
        return next(iter(self.parameters.values())).device

    def remember(self, *, initial: Ensemble | None = None, build: Callable[[int], nn.Module] | None = None) -> None:
        """Tell the ensemble where its models come from: their initial weights, and the seeded constructor."""
        self._initial = initial or self._initial
        self._build = build or self._build

    def use_streams(self, rng: Rng) -> None:
        """Give each model's dropout a stream of its own, from ``rng``."""
        for name, module in self.template.named_modules():
            if isinstance(module, Dropout):
                prefix = f"{name}." if name else ""
                seeds = torch.tensor(rng.seeds()) & 0xFFFFFFFF
                with torch.no_grad():
                    self.buffers[prefix + "stream"].copy_(seeds if self.stacked else seeds[0])
                    self.buffers[prefix + "calls"].zero_()

    def state(self) -> dict[str, Tensor]:
        """Copies of all parameters and buffers, each [*lead, ...]."""
        return {name: t.detach().clone() for name, t in (self.parameters | self.buffers).items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The reverse of :meth:`state`."""
        with torch.no_grad():
            for name, tensor in (self.parameters | self.buffers).items():
                tensor.copy_(state[name])

    def load_models(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Give model m the parameters and buffers in ``states[m]``; names that are not in there keep their values."""
        joined = {n: torch.stack([s[n] for s in states]) if self.stacked else states[0][n] for n in states[0]}
        self.load_state(self.state() | joined)

    def logits(self, x: Tensor) -> Tensor:
        """Outputs in evaluation mode on images shared by all models, x [n, C, H, W] -> float32 [*lead, n, classes]."""
        return self._evaluated(lambda net, x: net(x), x)

    def features(self, x: Tensor) -> Tensor:
        """What enters the head, in evaluation mode, x [n, C, H, W] -> float32 [*lead, n, D].

        Raises UserError if the model has no linear layer.
        """
        last = head(self.template)

        def entering(net: Net, x: Tensor) -> Tensor:
            kept: list[Tensor] = []
            hook = last.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
            try:
                net(x)
            finally:
                hook.remove()
            return kept[-1].flatten(1)

        return self._evaluated(entering, x)

    @torch.no_grad()
    def _evaluated(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        modes = [(module, module.training) for module in self.template.modules()]
        self.template.eval()
        try:
            parts = [self._each(fn, part) for part in x.split(_EVALUATION_BATCH)]
            return torch.cat(parts, dim=len(self.lead)).float()
        finally:
            for module, training in modes:
                module.training = training

    @abstractmethod
    def _each(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        """``fn(net, x)`` of every model, [*lead, ...]."""

    def _trainable(self) -> list[Tensor]:
        return [parameter for name, parameter in self.parameters.items() if name not in self._frozen]

    def _precision(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


class Sequential(Ensemble):
    """One model, plain autograd."""

    lead = ()

    def __init__(self, net: nn.Module, *, bf16: bool = False) -> None:
        super().__init__(bf16=bf16)
        self.template = net
        self._adopt()

    def gradients(self, loss: Loss, *batch: Any) -> dict[str, Tensor]:
        arguments = [entry.template if isinstance(entry, Sequential) else entry for entry in batch]
        wanted = {name: p for name, p in self.parameters.items() if name not in self._frozen}
        with self._precision():
            value = loss(self.template, *arguments)
        found = torch.autograd.grad(value, list(wanted.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(wanted, found, strict=True))

    def map_models(self, fn: Callable[..., nn.Module | None], rng: Rng, *extras: Any) -> None:
        (seed,) = rng.seeds()
        net = copy.deepcopy(self.template)
        own = [copy.deepcopy(extra.template) if isinstance(extra, Sequential) else extra for extra in extras]
        with global_seed(seed):
            net = fn(net, *own) or net
        self.load_state(_checked_state(net, self))

    def snapshot(self) -> Ensemble:
        net = copy.deepcopy(self.template).eval().requires_grad_(False)
        copied = Sequential(net, bf16=self.bf16)
        copied.remember(initial=self._initial, build=self._build)
        return copied

    def _each(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        with self._precision():
            return fn(self.template, x)

    def _adopt(self) -> None:
        self.parameters = dict(self.template.named_parameters())
        self.buffers = dict(self.template.named_buffers())


class Stacked(Ensemble):
    """M models as stacked tensors under ``vmap``."""

    def __init__(self, nets: Sequence[nn.Module], *, bf16: bool = False) -> None:
        super().__init__(bf16=bf16)
        self.lead = (len(nets),)
        self.template = nets[0]
        names = [dict(net.named_parameters()) for net in nets]
        self.parameters = {
            name: torch.stack([n[name].detach() for n in names]).contiguous().requires_grad_(p.requires_grad)
            for name, p in nets[0].named_parameters()
        }
        buffers = [dict(net.named_buffers()) for net in nets]
        self.buffers = {name: torch.stack([b[name] for b in buffers]) for name in buffers[0]}

    def gradients(self, loss: Loss, *batch: Any) -> dict[str, Tensor]:
        teachers = {i: entry for i, entry in enumerate(batch) if isinstance(entry, Stacked)}
        tensors = {i: entry for i, entry in enumerate(batch) if i not in teachers}
        wanted = {name: p for name, p in self.parameters.items() if name not in self._frozen}
        fixed = {name: p for name, p in self.parameters.items() if name in self._frozen}

        def one(
            wanted: dict[str, Tensor], fixed: dict[str, Tensor], buffers: dict[str, Tensor], teacher: Any, tensors: Any
        ) -> tuple[Tensor, dict[str, Tensor]]:
            buffers = {name: buffer.clone() for name, buffer in buffers.items()}  # batch norm writes into them
            arguments: list[Any] = [None] * len(batch)
            for i, tensor in tensors.items():
                arguments[i] = tensor
            for i, entry in teachers.items():
                arguments[i] = _net(entry.template, teacher[i])
            with self._precision():
                value = loss(_net(self.template, wanted | fixed | buffers), *arguments)
            return value, buffers

        states = {i: {n: t.detach() for n, t in (e.parameters | e.buffers).items()} for i, e in teachers.items()}
        detached = {name: p.detach() for name, p in wanted.items()}
        found, (_, buffers) = vmap(grad_and_value(one, has_aux=True), randomness="error")(
            detached, {name: p.detach() for name, p in fixed.items()}, self.buffers, states, tensors
        )
        self.buffers = buffers
        return found

    def map_models(self, fn: Callable[..., nn.Module | None], rng: Rng, *extras: Any) -> None:
        states = []
        for m, (seed, net) in enumerate(zip(rng.seeds(), self._nets(), strict=True)):
            own = [_part(extra, m) for extra in extras]
            with global_seed(seed):
                states.append(_checked_state(fn(net, *own) or net, self))
        self.load_models(states)

    def snapshot(self) -> Ensemble:
        copied = copy.copy(self)
        copied.template = copy.deepcopy(self.template).eval()
        copied.parameters = {name: p.detach().clone() for name, p in self.parameters.items()}
        copied.buffers = {name: b.clone() for name, b in self.buffers.items()}
        return copied

    def _each(self, fn: Callable[[Net, Tensor], Tensor], x: Tensor) -> Tensor:
        def one(state: dict[str, Tensor]) -> Tensor:
            with self._precision():
                return fn(_net(self.template, state), x)

        return vmap(one)({n: t.detach() for n, t in (self.parameters | self.buffers).items()})

    def net(self, m: int) -> nn.Module:
        """Model ``m`` as a plain module, a copy."""
        net = copy.deepcopy(self.template)
        with torch.no_grad():
            for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
                tensor.copy_((self.parameters.get(name, self.buffers.get(name)))[m])  # type: ignore[index]
        return net

    def _nets(self) -> Iterator[nn.Module]:
        return (self.net(m) for m in range(self.size))


def _part(extra: Any, m: int) -> Any:
    """What belongs to model ``m`` of something that a stack holds for all its models."""
    if isinstance(extra, Stacked):
        return extra.net(m)
    return {name: tensor[m] for name, tensor in extra.items()} if isinstance(extra, dict) else extra[m]


def _net(template: nn.Module, state: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """A single model of a stack, as its losses see it."""
    return lambda x: functional_call(template, state, (x,))


def _checked_state(net: nn.Module, ensemble: Ensemble) -> dict[str, Tensor]:
    """The parameters and buffers of ``net``. Raises ValueError if a method changed the architecture."""
    state = {name: t.detach() for name, t in [*net.named_parameters(), *net.named_buffers()]}
    lead = len(ensemble.lead)
    for name, tensor in (ensemble.parameters | ensemble.buffers).items():
        if name not in state:
            raise ValueError(f"the method removed '{name}' from the model; unlearned models must keep the architecture")
        if state[name].shape != tensor.shape[lead:]:
            raise ValueError(
                f"the method changed '{name}' from shape {tuple(tensor.shape[lead:])} to {tuple(state[name].shape)}; "
                "unlearned models must keep the architecture"
            )
    if added := [name for name, _ in net.named_parameters() if name not in ensemble.parameters]:
        raise ValueError(f"the method added '{added[0]}' to the model; unlearned models must keep the architecture")
    return state
