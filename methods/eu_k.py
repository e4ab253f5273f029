"""EU-k, exact unlearning of the last k layers (Goel et al. 2022): re-initialise these, then train only them on retain.

As :mod:`harness.methods.cf_k`, but the convolutions and linear layers among the last k start from fresh weights, and are trained
for as long as the authors' whole training took.

Source: the authors' repository. Re-initialised as the layers' constructors do.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from harness import Data, Ensemble, Rng

from .cf_k import CFk
from .surgery import last_names


@dataclass
class EUk(CFk):
    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        models.map_weights(self.reset_last, rng)
        super().unlearn(models, data, rng)

    def reset_last(self, net: nn.Module) -> None:
        for layer in last_names(net, self.k)[1]:
            layer.reset_parameters()
