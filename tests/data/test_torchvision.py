"""The sources that torchvision reads, from small files written in each one's own format."""

import hashlib
import pickle
import struct

import numpy as np
import pytest
import scipy.io

from harness.data import torchvision_sets as sources
from harness.errors import UserError
from harness.models.torchvision_import import torchvision
from harness.tasks.splits import make_task

RNG = np.random.default_rng(0)


def idx(path, array):
    """An IDX file: magic (type, rank), sizes, big-endian data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"uint8": 8, "int32": 12}[str(array.dtype)]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    path.write_bytes(head + array.astype(array.dtype.newbyteorder(">")).tobytes())


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def grey(n):
    return RNG.integers(0, 256, (n, 28, 28), dtype=np.uint8)


@pytest.mark.parametrize(("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")])
def test_idx_files(tmp_path, name, folder):
    train, test = grey(20), grey(7)
    raw = tmp_path / folder / "raw"
    for part, images in (("train", train), ("t10k", test)):
        idx(raw / f"{part}-images-idx3-ubyte", images)
        idx(raw / f"{part}-labels-idx1-ubyte", (np.arange(len(images)) % 10).astype(np.uint8))
    source = getattr(sources, name)(str(tmp_path))
    assert np.array_equal(source.images[..., 0], np.concatenate([train, test]))
    assert source.labels[:11].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]
    assert source.official_test is not None
    assert source.official_test.sum() == 7


def test_qmnist_brings_its_writers(tmp_path):
    raw = tmp_path / "QMNIST" / "raw"
    for part, n in (("train", 40), ("test", 12)):
        idx(raw / f"qmnist-{part}-images-idx3-ubyte", grey(n))
        labels = np.zeros((n, 8), np.int32)
        labels[:, 0], labels[:, 1], labels[:, 2] = (
            np.arange(n) % 10,
            4,
            2000 + np.arange(n) // 5,
        )  # digit, series, writer
        idx(raw / f"qmnist-{part}-labels-idx2-int", labels)
    source = sources.qmnist(str(tmp_path))
    assert source.groups is not None
    assert source.groups[:11].tolist() == [2000] * 5 + [2001] * 5 + [2002]
    task = make_task(source, forget={"kind": "groups", "n": 2}, split_seed=0, valid_fraction=0.2)
    assert len(task.splits["forget"]) == 10


@pytest.mark.parametrize(("name", "kind", "classes"), [("cifar10", "CIFAR10", 10), ("cifar100", "CIFAR100", 100)])
def test_cifar_batches(tmp_path, monkeypatch, name, kind, classes):
    reader = getattr(torchvision("datasets"), kind)
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    written = []
    for list_name in ("train_list", "test_list"):
        entries = []
        for batch, _ in getattr(reader, list_name):
            rows = RNG.integers(0, 256, (classes // 10, 3072), dtype=np.uint8)
            labels = list(range(classes - len(rows), classes))
            (folder / batch).write_bytes(
                pickle.dumps({"data": rows, "labels" if classes == 10 else "fine_labels": labels})
            )
            entries.append([batch, md5(folder / batch)])
            written.append(rows)
        monkeypatch.setattr(reader, list_name, entries)
    meta = folder / reader.meta["filename"]
    meta.write_bytes(pickle.dumps({reader.meta["key"]: [str(c) for c in range(classes)]}))
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(meta)})
    source = getattr(sources, name)(str(tmp_path))
    assert np.array_equal(source.images, np.concatenate(written).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert source.classes == classes
    assert source.labels.max() == classes - 1
    meta.write_bytes(b"damaged")
    with pytest.raises(UserError, match=f"data={name}: not found, or damaged, in"):
        getattr(sources, name)(str(tmp_path))


def test_svhn_calls_zero_zero(tmp_path, monkeypatch):
    reader = torchvision("datasets").SVHN
    entries = dict(reader.split_list)
    for split, n in (("train", 9), ("test", 4)):
        file = tmp_path / f"{split}_32x32.mat"
        images = RNG.integers(0, 256, (32, 32, 3, n), dtype=np.uint8)
        scipy.io.savemat(file, {"X": images, "y": (np.arange(n) % 10 + 1)[:, None].astype(np.uint8)})
        entries[split] = [entries[split][0], file.name, md5(file)]
        if split == "train":
            first = images[..., 0]
    monkeypatch.setattr(reader, "split_list", entries)
    source = sources.svhn(str(tmp_path))
    assert source.images.shape == (13, 32, 32, 3)
    assert np.array_equal(source.images[0], first)
    assert source.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4]


def test_stl10_is_resized_once(tmp_path, monkeypatch):
    reader = torchvision("datasets").STL10
    folder = tmp_path / reader.base_folder
    folder.mkdir()
    plain = np.zeros((3, 3, 96, 96), np.uint8)  # stored column by column, channel by channel
    plain[:, 0, :48] = 200  # the left half red once transposed
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(plain.tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes([1, 10, 3]))
    monkeypatch.setattr(reader, "train_list", [[f"train_{k}.bin", md5(folder / f"train_{k}.bin")] for k in "Xy"])
    monkeypatch.setattr(reader, "test_list", [[f"test_{k}.bin", md5(folder / f"test_{k}.bin")] for k in "Xy"])
    source = sources.stl10(str(tmp_path), size=8)
    assert source.images.shape == (6, 8, 8, 3)
    assert (source.images[:, :, :3, 0] == 200).all()
    assert (source.images[:, :, 5:, 0] == 0).all()
    assert source.labels.tolist() == [0, 9, 2, 0, 9, 2]
    monkeypatch.setattr(reader, "__init__", None)  # the second reading is from the store
    assert np.array_equal(sources.stl10(str(tmp_path), size=8).images, source.images)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion_mnist", "qmnist", "svhn", "stl10"])
def test_missing_data_say_where_to_get_them_and_download_nothing(tmp_path, monkeypatch, name, own_store):
    import socket

    def forbidden(*_, **__):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket, "create_connection", forbidden)
    with pytest.raises(
        UserError, match=r"(?s)not found, or damaged.*https?://.*data\.root.*data\.download=true"
    ) as error:
        getattr(sources, name)(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    with pytest.raises(UserError, match="datasets"):
        getattr(sources, name)()
    assert not any(tmp_path.glob("*.gz"))


def test_a_truncated_file_is_a_clear_error(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    for part in ("train", "t10k"):
        idx(raw / f"{part}-images-idx3-ubyte", grey(5))
        idx(raw / f"{part}-labels-idx1-ubyte", np.zeros(5, np.uint8))
    images = raw / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-100])
    with pytest.raises(UserError, match="data=mnist: not found, or damaged"):
        sources.mnist(str(tmp_path))
