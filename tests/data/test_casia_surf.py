"""The competition's own data: layout, age bins, shuffle and forget set, against a literal repetition of the published steps."""

import random

import numpy as np
import pytest
from sklearn.model_selection import LeavePGroupsOut

from harness.data.casia_surf import casia_surf
from harness.errors import UserError
from harness.tasks.splits import make_task
from tests.data.pictures import casia_surf_folder, picture


def official(root):
    source = casia_surf(str(root), size=12)
    return source, make_task(source, forget={"kind": "official"}, split_seed=3, normalise=False)


def test_splits_and_forget_set_are_the_organisers(tmp_path):
    _, task = official(casia_surf_folder(tmp_path))
    files = sorted(
        map(str, tmp_path.glob("WBackground/*/*/real.rssdk/color/*.jpg")), key=lambda f: (f.rsplit("/", 3)[0], f)
    )
    examples = list(zip(range(len(files)), [file.split("/")[-4] for file in files], strict=True))
    random.Random(43).shuffle(examples)
    n = len(examples)
    train = examples[: int(0.8 * n)]
    retain, forget = next(
        LeavePGroupsOut(15).split(np.zeros((len(train), 1)), None, [int(name[-4:]) for _, name in train])
    )
    assert n == 108

    def wanted(chosen):
        return sorted(i for i, _ in chosen)

    found = {name: task.source_index[indices].tolist() for name, indices in task.splits.items()}
    assert found["retain"] == wanted(train[i] for i in retain)
    assert found["forget"] == wanted(train[i] for i in forget)
    assert found["valid"] == wanted(examples[int(0.8 * n) : int(0.9 * n)])
    assert found["test"] == wanted(examples[int(0.9 * n) :])
    assert task.forget_kind == "official"


def test_ten_bins_over_the_people_and_raw_input(tmp_path):
    source, task = official(casia_surf_folder(tmp_path))
    ages = np.arange(20, 38)
    by_person = np.digitize(ages, np.linspace(20, 38, 11)) - 1
    assert source.groups is not None
    assert np.array_equal(source.labels, by_person[source.groups])
    assert source.classes == 10
    assert (task.mean.tolist(), task.std.tolist()) == ([0, 0, 0], [1, 1, 1])
    assert task.images.dtype == np.uint8


def test_the_split_seed_plays_no_part_in_official_splits(tmp_path):
    source = casia_surf(str(casia_surf_folder(tmp_path)), size=12)
    a, b = (make_task(source, forget={"kind": "official"}, split_seed=seed) for seed in (0, 1))
    assert all(np.array_equal(a.splits[name], b.splits[name]) for name in a.splits)


def test_other_forget_sets_keep_the_official_train_valid_and_test(tmp_path):
    source, first = official(casia_surf_folder(tmp_path))
    other = make_task(source, forget={"kind": "groups", "n": 3}, split_seed=0, test_limit=5)
    assert len(np.unique(other.groups[other.splits["forget"]])) == 3
    trained = [
        task.source_index[np.concatenate([task.splits["retain"], task.splits["forget"]])] for task in (first, other)
    ]
    assert set(trained[0]) == set(trained[1])
    assert len(other.splits["test"]) == 5


def test_copies_on_official_splits_are_counted_not_removed(tmp_path):
    root = casia_surf_folder(tmp_path)
    for file in root.glob("WBackground/*/CLKJ_AS0001/real.rssdk/color/*.jpg"):
        picture(file, 0)
    for file in root.glob("WBackground/*/CLKJ_AS0018/real.rssdk/color/*.jpg"):
        picture(file, 0)
    _, task = official(root)
    assert sum(task.sizes().values()) == 108
    assert task.notes["copies_across_official_forget"] > 0


def test_faults_are_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.root.*licence"):
        casia_surf()
    with pytest.raises(UserError, match=r"Age_Gender\.txt: no such file"):
        casia_surf(str(tmp_path))
    listed = tmp_path / "Age_Gender.txt"
    for text, message in (
        ("CLKJ_AS0001 old M\n", "line 1.*expected PERSON AGE GENDER"),
        ("CLKJ_AS0001 20\n", "line 1"),
        ("CLKJ_AS0001 20 M\n\nCLKJ_AS0001 21 M\n", "line 3: CLKJ_AS0001 is listed twice"),
        ("\n", "is empty"),
        ("CLKJ_AS0001 20 M\n", "no pictures WBackground"),
    ):
        listed.write_text(text)
        with pytest.raises(UserError, match=message):
            casia_surf(str(tmp_path))
    picture(tmp_path / "WBackground" / "x" / "CLKJ_AS0002" / "real.rssdk" / "color" / "1.jpg", 0)
    with pytest.raises(UserError, match="CLKJ_AS0002 is not listed"):
        casia_surf(str(tmp_path))


def test_too_few_people_and_corrupt_pictures(tmp_path):
    with pytest.raises(UserError, match="takes 15 and must leave some"):
        casia_surf(str(casia_surf_folder(tmp_path / "few", people=15, each=2)), size=6)
    root = casia_surf_folder(tmp_path / "broken", people=17, each=2)
    broken = next(root.glob("WBackground/*/CLKJ_AS0005/real.rssdk/color/1.jpg"))
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(UserError, match=r"CLKJ_AS0005.*cannot be decoded"):
        casia_surf(str(root), size=6)


def test_forget_official_needs_an_official_forget_set():
    from harness.data.digits import digits

    with pytest.raises(UserError, match=r"forget=official needs data that come with a forget set; 'digits'"):
        make_task(digits(), forget={"kind": "official"}, split_seed=0)
