"""What enters the head of every model of an ensemble."""

from __future__ import annotations

from torch import Tensor

from harness.engine.ensemble import Ensemble
from harness.engine.losses import Net
from harness.models import head


def features(models: Ensemble, x: Tensor) -> Tensor:
    """The inputs of the last linear layer, in evaluation mode, x [n, C, H, W] -> float32 [*lead, n, D].

    Raises UserError if the model has no linear layer.
    """
    last = head(models.template)

    def entering(net: Net, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda _, arguments: kept.append(arguments[0]))
        try:
            net(x)
        finally:
            hook.remove()
        return kept[-1].flatten(1)

    return models.evaluate(entering, x)
