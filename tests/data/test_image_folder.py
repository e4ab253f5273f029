"""A folder of images with one sub-folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.data.image_folder import image_folder
from harness.errors import UserError


@pytest.fixture(autouse=True)
def _own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARN_STORE", str(tmp_path / "store"))


def picture(path: Path, colour: tuple[int, int, int] | int = (200, 100, 50), size: tuple[int, int] = (10, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(colour, int) else "RGB", size, colour).save(path)


@pytest.fixture
def pets(tmp_path):
    root = tmp_path / "pets"
    for i in range(3):
        picture(root / "dog" / f"{i}.png", (0, 0, 10 * i))
        picture(root / "cat" / f"{i}.jpg", (200, 100, 50))
    return root


def test_flat(pets):
    source = image_folder(str(pets), size=8)
    assert source.name == "pets"
    assert source.classes == 2
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1]  # cat before dog
    assert source.images.shape == (6, 8, 8, 3)
    assert source.images.dtype == np.uint8
    assert np.abs(source.images[0].astype(int) - [200, 100, 50]).max() < 6  # JPEG is not exact
    assert source.images[3:, 0, 0, 2].tolist() == [0, 10, 20]
    assert source.official_test is None
    assert source.groups is None


def test_grey_and_other_modes(pets):
    picture(pets / "dog" / "grey.png", 77)
    Image.new("RGBA", (5, 5), (9, 9, 9, 0)).save(pets / "dog" / "see-through.PNG")
    colour = image_folder(str(pets), size=4)
    assert colour.images.shape == (8, 4, 4, 3)
    assert colour.images[6, 0, 0].tolist() == [77, 77, 77]
    grey = image_folder(str(pets), size=4, grey=True)
    assert grey.images.shape == (8, 4, 4, 1)
    assert grey.images[6].max() == 77


def test_official_test_set(tmp_path):
    for part, n in (("train", 3), ("test", 2)):
        for name in ("b", "a"):
            for i in range(n):
                picture(tmp_path / part / name / "deep" / f"{i}.png", (i, n, 0))
    source = image_folder(str(tmp_path), size=2)
    assert source.labels.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert source.official_test.tolist() == [False] * 6 + [True] * 4
    assert set(source.images[~source.official_test][..., 1].ravel()) == {3}
    assert set(source.images[source.official_test][..., 1].ravel()) == {2}


def test_other_files_do_not_matter(pets):
    (pets / "readme.txt").write_text("cats and dogs")
    (pets / "cat" / "notes.txt").write_text("!")
    (pets / ".cache").mkdir()
    assert len(image_folder(str(pets)).images) == 6


def test_a_changed_image_is_read_again(pets):
    before = image_folder(str(pets), size=4).images
    again = image_folder(str(pets), size=4).images
    np.testing.assert_array_equal(before, again)
    picture(pets / "dog" / "0.png", (1, 2, 3), size=(30, 30))
    assert image_folder(str(pets), size=4).images[3, 0, 0].tolist() == [1, 2, 3]
    assert image_folder(str(pets), size=5).images.shape == (6, 5, 5, 3)


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
@pytest.mark.parametrize("name", ["cat/1.jpg", "dog/2.png"])
def test_undecodable_image_is_named(pets, name, damage):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(pets / name)
    data = (pets / name).read_bytes()
    (pets / name).write_bytes({"text": b"not an image", "cut": data[: len(data) // 2], "empty": b""}[damage])
    with pytest.raises(UserError, match=f"{name}: cannot be decoded"):
        image_folder(str(pets))


def test_many_undecodable_images_are_counted(pets):
    for i in range(9):
        (pets / "dog" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"bad0.png.*and 4 more"):
        image_folder(str(pets))


def test_missing_root(tmp_path):
    with pytest.raises(UserError, match=r"data=image_folder needs data.root=DIRECTORY"):
        image_folder()
    with pytest.raises(UserError, match="nowhere: no such directory"):
        image_folder(str(tmp_path / "nowhere"))


def test_no_classes(tmp_path):
    with pytest.raises(UserError, match="expected at least two class folders, found none"):
        image_folder(str(tmp_path))
    picture(tmp_path / "cat" / "1.png")
    with pytest.raises(UserError, match="expected at least two class folders, found cat"):
        image_folder(str(tmp_path))


def test_empty_class_folder_is_named(pets):
    (pets / "bird").mkdir()
    (pets / "bird" / "bird.txt").write_text("a bird")
    with pytest.raises(UserError, match=r"pets/bird: a class folder without images \(.*\.png"):
        image_folder(str(pets))


def test_no_images_at_all(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"no images \(.*\.png.*\) in its class folders"):
        image_folder(str(tmp_path))


def test_class_only_in_test_is_named(tmp_path):
    for where in ("train/a", "train/b", "test/a", "test/c"):
        picture(tmp_path / where / "1.png")
    with pytest.raises(UserError, match=r"test/c: class 'c' is not in .*train"):
        image_folder(str(tmp_path))
