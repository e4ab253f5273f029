"""UTKFace's file names, its malformed ones, ages in bins, near-duplicates, and the decoding shared by picture folders."""

import os

import numpy as np
import pytest
from PIL import Image

from harness.data import decoding
from harness.data.ages import age_bins
from harness.data.alike import near_duplicates
from harness.data.image_folder import image_folder
from harness.data.utkface import utkface
from harness.errors import UserError
from harness.tasks.splits import make_task
from tests.data.pictures import picture, utkface_folder


def test_age_from_the_name_malformed_names_counted(tmp_path):
    root = tmp_path / "faces"
    good = ["1_0_2_20161219140623097.jpg.chip.jpg", "100_1_0_20170112213500903.jpg", "26_0_3_20170104.jpg.chip.jpg"]
    bad = ["61_1_20170109150557335.jpg.chip.jpg", "53__0_20170116184028385.jpg", "cover.jpg", "x_0_0_2017.jpg"]
    for i, name in enumerate(good + bad):
        picture(root / ("part" if i % 2 else ".") / name, i)
    source = utkface(str(root), size=12)
    assert source.images.shape == (3, 12, 12, 3)
    assert source.notes == {"malformed_names_skipped": 4}
    assert sorted(source.labels) == [0, 2, 9]  # ages 1, 26 and 100 in ten bins of width 10 from 1
    assert source.classes == 10
    assert source.groups is None


def test_the_aligned_version_of_a_picture_wins(tmp_path):
    aligned = picture(tmp_path / "b" / "9_0_0_2017.jpg.chip.jpg", 1)
    picture(tmp_path / "a" / "9_0_0_2017.jpg", 2)
    picture(tmp_path / "c" / "9_0_0_2017.jpg", 3)
    picture(tmp_path / "8_0_0_2017.jpg", 4)
    source = utkface(str(tmp_path), size=12)
    assert len(source.images) == 2
    assert any(np.array_equal(image, np.asarray(Image.open(aligned))) for image in source.images)


def test_missing_data_say_where_to_get_them_and_where_to_put_them(tmp_path):
    for root in (None, str(tmp_path / "nowhere"), str(tmp_path)):
        with pytest.raises(UserError, match=r"(?s)data\.root.*susanqq"):
            utkface(root)


def test_a_corrupt_picture_is_named(tmp_path):
    utkface_folder(tmp_path / "faces", 4)
    (tmp_path / "faces" / "30_0_0_2017.jpg").write_bytes(b"not a picture")
    with pytest.raises(UserError, match=r"30_0_0_2017\.jpg: cannot be decoded"):
        utkface(str(tmp_path / "faces"), size=8)


def test_identical_files_stay_on_one_side(tmp_path):
    for i in range(40):
        picture(tmp_path / f"{i + 1}_0_0_{i}.jpg", i // 2)  # every picture twice, under two ages
    task = make_task(utkface(str(tmp_path), size=12), forget={"kind": "random", "n": 6}, split_seed=0)
    side = {name: {task.images[i].tobytes() for i in task.splits[name]} for name in task.splits}
    for a in side:
        assert all(not side[a] & side[b] for b in side if b != a)


def test_near_duplicates_are_joined_when_asked(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (27, 27, 3)).astype(np.float64)
        pixels = pixels[::3, ::3].repeat(3, 0).repeat(3, 1)
        for j, noise in enumerate((0, 2)):
            noisy = np.clip(pixels + noise * rng.standard_normal(pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(tmp_path / f"{i + 1}_0_0_{i}{j}.jpg", quality=95)
    source = utkface(str(tmp_path), size=27, near_duplicates=4)
    assert source.alike is not None
    assert source.notes["near_duplicates"] == 12
    assert all(source.alike[2 * i] == source.alike[2 * i + 1] for i in range(12))
    task = make_task(source, forget={"kind": "random", "n": 4}, split_seed=0)
    for indices in task.splits.values():
        clusters = source.alike[task.source_index[indices]]
        assert all((clusters == cluster).sum() == 2 for cluster in clusters)


def test_near_duplicates_chain_across_blocks():
    images = np.repeat(np.random.default_rng(0).integers(0, 256, (3, 18, 18, 1), dtype=np.uint8), 700, 0)
    assert set(near_duplicates(images, distance=0).tolist()) == {0, 700, 1400}


def test_bins_of_equal_width_and_of_equal_count():
    ages = np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 100])
    width, classes = age_bins(ages, bins=10, binning="width")
    assert (width.tolist(), classes) == ([0] * 9 + [9], 10)
    count, classes = age_bins(ages, bins=5, binning="count")
    assert (count.tolist(), classes) == ([0, 0, 1, 1, 2, 2, 3, 3, 4, 4], 5)
    tied, classes = age_bins(np.array([1] * 8 + [2, 3]), bins=5, binning="count")
    assert tied[:8].tolist() == [0] * 8  # one age is never torn
    assert classes == len(set(tied))
    for wrong in ({"bins": 1, "binning": "width"}, {"bins": 3, "binning": "wdth"}):
        with pytest.raises(UserError, match=r"data\.bin"):
            age_bins(ages, **wrong)
    with pytest.raises(UserError, match="one bin only"):
        age_bins(np.array([5, 5, 5]), bins=2, binning="count")


# --- decoding, shared -----------------------------------------------------------------------------------------------


def test_pictures_are_decoded_once_and_again_when_a_file_changes(tmp_path, monkeypatch, own_store):
    files = [picture(tmp_path / "in" / f"{i}.png", i) for i in range(3)]
    first = decoding.decode(files, size=6)
    assert len(list((own_store / "images").iterdir())) == 1
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_decode", None)  # would fail if it were called
        assert np.array_equal(decoding.decode(files, size=6), first)
    picture(files[1], 99)
    os.utime(files[1], ns=(1, 1))
    again = decoding.decode(files, size=6)
    assert not np.array_equal(again[1], first[1])
    assert np.array_equal(again[0], first[0])
    assert decoding.decode(files, size=4, grey=True).shape == (3, 4, 4, 1)


def test_a_damaged_cache_is_made_again(tmp_path, own_store):
    files = [picture(tmp_path / "a.png", 0)]
    first = decoding.decode(files, size=6)
    (kept,) = (own_store / "images").iterdir()
    kept.write_bytes(kept.read_bytes()[:70])
    assert np.array_equal(decoding.decode(files, size=6), first)


def test_image_folder_classes_and_official_test(tmp_path):
    for i, name in enumerate(
        ["train/cat/a.png", "train/cat/b.jpg", "train/dog/c.png", "test/cat/d.png", "test/dog/e.PNG"]
    ):
        picture(tmp_path / name, i)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    source = image_folder(str(tmp_path), size=6)
    assert source.labels.tolist() == [0, 0, 1, 0, 1]
    assert source.official_test is not None
    assert source.official_test.tolist() == [False] * 3 + [True] * 2
    assert image_folder(str(tmp_path), size=6, grey=True).images.shape == (5, 6, 6, 1)


def test_image_folder_says_what_is_missing(tmp_path):
    with pytest.raises(UserError, match=r"needs data\.root"):
        image_folder()
    with pytest.raises(UserError, match="no such directory"):
        image_folder(str(tmp_path / "x"))
    (tmp_path / "a").mkdir()
    with pytest.raises(UserError, match="at least two class folders"):
        image_folder(str(tmp_path))
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="no images"):
        image_folder(str(tmp_path))
