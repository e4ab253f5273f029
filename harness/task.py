"""A task: images, labels and the index sets retain / forget / valid / test, fixed by the split seed alone."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SPLITS = ("retain", "forget", "valid", "test")


@dataclass(frozen=True)
class Source:
    """What a data loader hands over, before any split.

    images: uint8 or float32 [n, H, W, C]; labels: int64 [n] in 0..classes-1; groups: int64 [n] (writer, subject) or None;
    official_test: bool [n], the images of a test set fixed by the data's publisher, or None when we make the test split.
    official_splits: index sets ``train``, ``valid``, ``test`` and perhaps ``forget``, where the publisher fixed all of them.
    alike: int64 [n], for each image the first of those that no split we make may separate from it; None: its exact copies.
    ``notes`` counts what a reader should know (skipped files, say).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    classes: int
    groups: np.ndarray | None = None
    official_test: np.ndarray | None = None
    official_splits: Mapping[str, np.ndarray] | None = None
    alike: np.ndarray | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """A data set with its splits. Only the images that belong to a split are kept.

    images: uint8 or float32 [n, H, W, C]; labels: int64 [n]; groups: int64 [n] or None.
    splits: the index sets, each int64, disjoint. retain_sample: the fixed part of retain on which outputs are recorded.
    mean, std: per channel, in the images' own units; a model sees (image - mean) / std.
    source_index: where each image stood in the source, for audits.
    """

    name: str
    forget_kind: str
    classes: int
    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None
    splits: Mapping[str, np.ndarray]
    retain_sample: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    source_index: np.ndarray
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """SHA-256 over everything that a model or a metric can see; equal on every machine."""
        digest = hashlib.sha256()
        digest.update(f"{self.forget_kind}|{self.classes}|{self.images.dtype}|{self.images.shape}".encode())
        arrays = [self.images, self.labels, self.retain_sample, self.mean, self.std]
        for array in arrays + [self.splits[name] for name in SPLITS]:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:32]

    @property
    def forgotten_class(self) -> int | None:
        """The class that is forgotten as a whole, if the forget set is of that kind."""
        return int(self.labels[self.splits["forget"][0]]) if self.forget_kind == "class" else None

    def scored_test(self) -> np.ndarray:
        """The test indices on which accuracy is measured: without a class that is forgotten as a whole.

        A model that forgot the class would lose, and one that did not would gain, test accuracy for it.
        """
        test = self.splits["test"]
        return test if self.forgotten_class is None else test[self.labels[test] != self.forgotten_class]

    def sizes(self) -> dict[str, int]:
        return {name: len(self.splits[name]) for name in SPLITS}

    def to_bytes(self) -> bytes:
        """The task as one .npz, so that worker processes need not decode the source again."""
        header = {
            "name": self.name,
            "forget_kind": self.forget_kind,
            "classes": self.classes,
            "notes": dict(self.notes),
        }
        arrays = {f"split_{name}": self.splits[name] for name in SPLITS}
        arrays |= {name: getattr(self, name) for name in _ARRAYS}
        if self.groups is not None:
            arrays["groups"] = self.groups
        buffer = io.BytesIO()
        np.savez(buffer, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Task:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return cls(
                **json.loads(str(file["header"])),
                splits={name: file[f"split_{name}"] for name in SPLITS},
                groups=file.get("groups"),
                **{name: file[name] for name in _ARRAYS},
            )


_ARRAYS = ("images", "labels", "retain_sample", "mean", "std", "source_index")
