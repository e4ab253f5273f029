"""The competition's interface: ``unlearning(net, retain_loader, forget_loader, val_loader)``, run as it is.

``net`` is an ordinary module, the loaders are ordinary DataLoaders. The function may change ``net`` in place and return
nothing, or return a module. Its clock includes its loaders, so its time is not comparable with an ensemble method's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.collate import default_collate_fn_map

from harness.engine.batches import Data, Split
from harness.engine.ensemble import Ensemble
from harness.streams import Rng

BATCH_SIZE = 64  # as the competition's loaders


class Batch(dict[str, Tensor]):
    """``batch["image"]`` and ``batch["age_group"]`` as in the competition, and ``x, y = batch`` as everywhere else."""

    def __iter__(self) -> Iterator[Tensor]:  # type: ignore[override]
        return iter((self["image"], self["age_group"]))

    def __missing__(self, key: str) -> Tensor:
        if key in ("label", "labels", "target"):
            return self["age_group"]
        raise KeyError(f"{key}; a batch has 'image' and 'age_group' (also as 'label')")


class _Images(Dataset[Batch]):
    def __init__(self, split: Split) -> None:
        self.images, self.labels = split.tensors()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Batch:
        return Batch(image=self.images[i], age_group=self.labels[i])


def _collate(items: list[Batch], *, collate_fn_map: Any = None) -> Batch:
    return Batch({key: torch.stack([item[key] for item in items]) for key in ("image", "age_group")})


# Registered with torch, so that a function that wraps ``loader.dataset`` in a DataLoader of its own gets the same batches.
default_collate_fn_map[Batch] = _collate


def _loader(split: Split) -> DataLoader[Batch]:
    return DataLoader(_Images(split), batch_size=BATCH_SIZE, shuffle=True)


@dataclass(frozen=True)
class PlainFunction:
    """Adapts a plain function to the ensemble interface."""

    function: Callable[..., nn.Module | None]
    parameters: Mapping[str, Any]

    def unlearn(self, models: Ensemble, data: Data, rng: Rng) -> None:
        retain, forget, valid = _loader(data.retain), _loader(data.forget), _loader(data.valid)

        def run(net: nn.Module) -> nn.Module | None:
            net.requires_grad_(True)
            result = self.function(net, retain, forget, valid, **self.parameters)
            return result if isinstance(result, nn.Module) else None

        models.map_models(run, rng)
