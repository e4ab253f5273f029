"""The data sets that torchvision reads: CIFAR-10 and -100, MNIST, FashionMNIST, SVHN, STL-10, and QMNIST with its writers.

All have an official test set. ``root`` is the folder torchvision calls root; by default ``datasets`` in the store.
Nothing is downloaded unless ``download`` is set.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from harness.data.decoding import cached, resize
from harness.errors import UserError
from harness.files import default_root
from harness.models.torchvision_import import torchvision
from harness.task import Source

Part = tuple[Any, Any]  # images and labels of train or of test, as torchvision holds them
_WRITER = 2  # the column of QMNIST's extended labels; column 0 is the digit


def cifar10(root: str | None = None, download: bool = False) -> Source:
    """CIFAR-10: 50,000 + 10,000 colour images 32×32, 10 classes."""
    where = "cifar-10-batches-py/ from https://www.cs.toronto.edu/~kriz/cifar.html (170 MB)"
    return _source("cifar10", root, download, where, lambda sets, **at: _train_and_test(sets.CIFAR10, "targets", at))


def cifar100(root: str | None = None, download: bool = False) -> Source:
    """CIFAR-100: 50,000 + 10,000 colour images 32×32, 100 classes."""
    where = "cifar-100-python/ from https://www.cs.toronto.edu/~kriz/cifar.html (169 MB)"
    return _source("cifar100", root, download, where, lambda sets, **at: _train_and_test(sets.CIFAR100, "targets", at))


def mnist(root: str | None = None, download: bool = False) -> Source:
    """MNIST: 60,000 + 10,000 grey digits 28×28."""
    where = "MNIST/raw/*-ubyte from http://yann.lecun.com/exdb/mnist/ (12 MB)"
    return _source("mnist", root, download, where, lambda sets, **at: _train_and_test(sets.MNIST, "targets", at))


def fashion_mnist(root: str | None = None, download: bool = False) -> Source:
    """FashionMNIST: 60,000 + 10,000 grey pieces of clothing 28×28, 10 classes."""
    where = "FashionMNIST/raw/*-ubyte from https://github.com/zalandoresearch/fashion-mnist (31 MB)"
    return _source(
        "fashion_mnist", root, download, where, lambda sets, **at: _train_and_test(sets.FashionMNIST, "targets", at)
    )


def qmnist(root: str | None = None, download: bool = False) -> Source:
    """QMNIST's reconstruction of MNIST, 60,000 + 10,000 digits, with the writer of each as its group."""

    def parts(sets: ModuleType, **at: Any) -> list[Part]:
        both = [sets.QMNIST(what=what, compat=False, **at) for what in ("train", "test10k")]
        return [(part.data, part.targets) for part in both]

    where = "QMNIST/raw/qmnist-* from https://github.com/facebookresearch/qmnist (21 MB)"
    return _source("qmnist", root, download, where, parts)


def svhn(root: str | None = None, download: bool = False) -> Source:
    """SVHN, cropped digits: 73,257 + 26,032 colour images 32×32."""

    def parts(sets: ModuleType, **at: Any) -> list[Part]:
        both = [sets.SVHN(split=split, **at) for split in ("train", "test")]
        return [(part.data.transpose(0, 2, 3, 1), part.labels) for part in both]

    where = "train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/ (246 MB)"
    return _source("svhn", root, download, where, parts)


def stl10(root: str | None = None, download: bool = False, size: int = 32) -> Source:
    """STL-10's labelled part: 5,000 + 8,000 colour images 96×96, 10 classes, resized to ``size``."""

    def parts(sets: ModuleType, **at: Any) -> list[Part]:
        base = Path(at["root"]) / "stl10_binary"
        files = [base / f"{name}_{kind}.bin" for name in ("train", "test") for kind in "Xy"]
        if not all(file.is_file() for file in files):
            sets.STL10(**at)  # downloads, or raises saying what is missing

        def resized() -> np.ndarray:
            both = [sets.STL10(split=split, **at) for split in ("train", "test")]
            return resize(np.concatenate([part.data.transpose(0, 2, 3, 1) for part in both]), size)

        labels = [np.fromfile(file, np.uint8).astype(np.int64) - 1 for file in files[1::2]]
        images = cached({"what": "stl10", "size": size}, files, resized)
        return list(zip(np.split(images, [len(labels[0])]), labels, strict=True))

    where = "stl10_binary/ from https://cs.stanford.edu/~acoates/stl10/ (2.6 GB)"
    return _source("stl10", root, download, where, parts)


def _train_and_test(kind: Any, labels: str, at: dict[str, Any]) -> list[Part]:
    both = [kind(train=train, **at) for train in (True, False)]
    return [(part.data, getattr(part, labels)) for part in both]


def _source(name: str, root: str | None, download: bool, where: str, parts: Callable[..., list[Part]]) -> Source:
    base = Path(root).expanduser() if root else default_root() / "datasets"
    try:
        loaded = parts(torchvision("datasets"), root=str(base), download=download)
    except (RuntimeError, OSError, ValueError, AssertionError, EOFError) as error:
        asked = "the download failed" if download else "nothing is downloaded without data.download=true"
        raise UserError(
            f"data={name}: not found, or damaged, in {base} ({error or type(error).__name__}). "
            f"Put {where} there, or name its folder with data.root=DIRECTORY; {asked}"
        ) from error
    images = np.concatenate([np.asarray(x) for x, _ in loaded])
    labels = np.concatenate([np.asarray(y) for _, y in loaded]).astype(np.int64)
    extended = labels.ndim == 2
    digits = labels[:, 0] if extended else labels
    return Source(
        name,
        images if images.ndim == 4 else images[..., None],
        digits,
        100 if name == "cifar100" else 10,
        groups=labels[:, _WRITER] if extended else None,
        official_test=np.repeat([False, True], [len(x) for x, _ in loaded]),
    )
