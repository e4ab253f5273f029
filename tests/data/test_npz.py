"""Bring your own arrays: what is read, and what is said about arrays that do not fit."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from harness.data.npz import npz
from harness.errors import UserError


def arrays(**changes: object) -> dict[str, np.ndarray]:
    """A well-formed file of 12 + 6 images; a change to None takes an array out."""
    rng = np.random.default_rng(0)
    made: dict[str, object] = {
        "train_images": rng.integers(0, 256, (12, 4, 5), dtype=np.uint8),
        "train_labels": np.arange(12) % 3,
        "train_groups": np.arange(12) // 2,
        "test_images": rng.integers(0, 256, (6, 4, 5), dtype=np.uint8),
        "test_labels": np.arange(6) % 3,
        "test_groups": np.arange(6) + 100,
    }
    return {name: array for name, array in (made | changes).items() if array is not None}


@pytest.fixture
def file(tmp_path):
    def write(**changes):
        path = tmp_path / "faces.npz"
        np.savez_compressed(path, **arrays(**changes))
        return path

    return write


def test_official_test_set(file):
    source = npz(str(file()))
    given = arrays()
    assert source.name == "faces"
    assert source.classes == 3
    assert source.images.dtype == np.uint8
    assert source.images.shape == (18, 4, 5, 1)
    np.testing.assert_array_equal(source.images[:12, ..., 0], given["train_images"])
    np.testing.assert_array_equal(source.images[12:, ..., 0], given["test_images"])
    assert source.labels.tolist() == [*given["train_labels"], *given["test_labels"]]
    assert source.labels.dtype == np.int64
    assert source.groups.tolist() == [*given["train_groups"], *given["test_groups"]]
    assert source.official_test.tolist() == [False] * 12 + [True] * 6


def test_train_only(file):
    source = npz(file(test_images=None, test_labels=None, test_groups=None, train_groups=None))
    assert source.official_test is None
    assert source.groups is None
    assert len(source.images) == len(source.labels) == 12


def test_colour_and_floating_point(file):
    rng = np.random.default_rng(1)
    source = npz(file(train_images=rng.random((12, 4, 4, 3)), test_images=rng.random((6, 4, 4, 3))))
    assert source.images.shape == (18, 4, 4, 3)
    assert source.images.dtype == np.float32


def test_other_integer_types(file):
    source = npz(file(train_labels=np.arange(12, dtype=np.uint8) % 3, test_labels=np.arange(6, dtype=np.int16) % 3))
    assert source.labels.dtype == np.int64
    assert source.labels.max() == 2


def test_arrays_of_no_concern_are_not_read(file):
    assert npz(file(about=np.array([{"made": "by hand"}], dtype=object))).classes == 3


WITHOUT = np.zeros(0)
MALFORMED = {
    "no images": ({"train_images": None}, "array 'train_images' is missing; found test_groups, .*train_labels"),
    "no labels": ({"train_labels": None}, "array 'train_labels' is missing"),
    "half a test set": ({"test_labels": None}, "test_images and test_labels must come together"),
    "flat images": ({"train_images": np.zeros((12, 20), np.uint8)}, r"train_images has shape \(12, 20\); expected \[n, H, W\]"),
    "five axes": ({"train_images": np.zeros((12, 1, 4, 5, 1), np.uint8)}, r"train_images has shape .*expected \[n, H, W\]"),
    "channels first": ({"train_images": np.zeros((12, 3, 4, 50), np.uint8)}, r"train_images .*\[n, H, W, channels\]"),
    "no image": ({"train_images": np.zeros((0, 4, 5), np.uint8)}, r"train_images has shape \(0, 4, 5\).*n > 0"),
    "integer images": ({"train_images": np.zeros((12, 4, 5), int)}, "train_images has type int64; expected uint8 or float"),
    "boolean images": ({"train_images": np.zeros((12, 4, 5), bool)}, "train_images has type bool; expected uint8"),
    "NaN": ({"train_images": np.full((12, 4, 5), np.nan)}, "train_images holds NaN or infinite values"),
    "infinity": ({"test_images": np.full((6, 4, 5), np.inf)}, "test_images holds NaN or infinite values"),
    "other shape in test": ({"test_images": np.zeros((6, 5, 5), np.uint8)}, "train_images and test_images differ in shape"),
    "other type in test": ({"test_images": np.zeros((6, 4, 5))}, "train_images and test_images differ.*uint8 and .*float32"),
    "negative labels": ({"train_labels": np.arange(12) - 1}, "train_labels holds -1; expected integers from 0"),
    "float labels": ({"train_labels": np.arange(12) / 1}, "train_labels has type float64; expected integers"),
    "one-hot labels": ({"train_labels": np.eye(12, dtype=int)}, r"train_labels has shape \(12, 12\); expected \(12,\)"),
    "too few labels": ({"train_labels": np.arange(11) % 3}, r"train_labels has shape \(11,\); expected \(12,\), one for each"),
    "too few test labels": ({"test_labels": np.arange(5) % 3}, r"test_labels has shape \(5,\); expected \(6,\)"),
    "huge labels": ({"train_labels": np.arange(12) * 10**8}, "train_labels goes up to 1100000000 for 12 images"),
    "a class only in test": ({"test_labels": np.arange(6)}, "test_labels goes up to 5, train_labels only to 2"),
    "one class": ({"train_labels": np.zeros(12, int)}, "train_labels holds a single class; expected at least two"),
    "groups of train only": ({"test_groups": None}, "test_groups is missing although train_groups is there"),
    "float groups": ({"train_groups": np.arange(12) / 2}, "train_groups has type float64; expected integers"),
    "too few groups": ({"train_groups": np.arange(3)}, r"train_groups has shape \(3,\); expected \(12,\)"),
    "names as groups": ({"test_groups": np.array(list("abcdef"))}, "test_groups has type <U1; expected integers"),
    "object images": ({"train_images": np.array([None] * 12)}, "train_images cannot be read .*[Oo]bject arrays"),
    "object labels": ({"train_labels": np.array(["a", 1] * 6, dtype=object)}, "train_labels cannot be read .*[Oo]bject"),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case, file):
    changes, message = MALFORMED[case]
    with pytest.raises(UserError, match=f"faces.npz: {message}"):
        npz(str(file(**changes)))


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"data=npz needs data.path=FILE.npz"):
        npz()
    with pytest.raises(UserError, match=r"nowhere.npz: no such file"):
        npz(str(tmp_path / "nowhere.npz"))
    with pytest.raises(UserError, match="no such file"):
        npz(str(tmp_path))


def test_not_an_npz(tmp_path):
    text = tmp_path / "text.npz"
    text.write_text("train_images, train_labels\n")
    with pytest.raises(UserError, match=r"text.npz: not a readable .npz file"):
        npz(str(text))
    empty = tmp_path / "empty.npz"
    empty.write_bytes(b"")
    with pytest.raises(UserError, match=r"empty.npz: not a readable .npz file"):
        npz(str(empty))
    single = tmp_path / "single.npy"
    np.save(single, np.zeros((3, 4, 4)))
    with pytest.raises(UserError, match=r"single.npy: a single array; expected an .npz with train_images"):
        npz(str(single))


def test_empty_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    with pytest.raises(UserError, match="array 'train_images' is missing; found nothing"):
        npz(str(tmp_path / "none.npz"))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_truncated(file, share):
    path = file()
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"faces.npz: not a readable .npz file"):
        npz(str(path))


@pytest.mark.parametrize(("at", "byte"), [(0.3, 0), (0.3, 255), (0.02, 0), (0.02, 255)])
def test_damaged(file, at, byte):
    """Whether the decompressor or the checksum notices."""
    path = file(train_images=np.tile(np.arange(250, dtype=np.uint8), (12, 50, 1)), test_images=None, test_labels=None)
    data = bytearray(path.read_bytes())
    start = 60 + int(len(data) * at)
    data[start : start + 64] = bytes([byte]) * 64
    path.write_bytes(data)
    with pytest.raises(UserError, match="train_images cannot be read"):
        npz(str(path))
