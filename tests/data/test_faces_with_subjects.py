"""Person and age from the file name, by a pattern of the user's."""

import pytest

from harness.data.faces_with_subjects import faces_with_subjects
from harness.errors import UserError
from harness.tasks.splits import make_task
from tests.data.pictures import picture


def fg_net(root, people=8, each=4):
    for person in range(people):
        for k in range(each):
            picture(
                root / "images" / f"{person + 1:03d}A{2 + 7 * k + person:02d}{'ab'[k % 2] if k > 1 else ''}.JPG",
                10 * person + k,
            )
    picture(root / "cover.jpg", 999)
    return root


def test_fg_nets_names(tmp_path):
    source = faces_with_subjects(str(fg_net(tmp_path)), size=12)
    assert source.groups is not None
    assert source.groups.tolist() == [person for person in range(8) for _ in range(4)]
    assert source.labels.min() == 0
    assert source.labels.max() == 9
    assert source.notes == {"unmatched_names_skipped": 1}


def test_people_are_forgotten_whole(tmp_path):
    source = faces_with_subjects(str(fg_net(tmp_path)), size=12)
    task = make_task(source, forget={"kind": "groups", "n": 2}, split_seed=0, valid_fraction=0.2)
    people = {name: set(task.groups[indices].tolist()) for name, indices in task.splits.items()}
    assert len(people["forget"]) == 2
    assert all(not people["forget"] & people[name] for name in ("retain", "valid", "test"))


def test_the_pattern_sees_folders(tmp_path):
    for name in ("ann/age_3.png", "ann/age_40.png", "bob/age_20.png"):
        picture(tmp_path / name, hash(name) % 1000)
    source = faces_with_subjects(str(tmp_path), pattern=r"(?P<subject>\w+)/age_(?P<age>\d+)", size=12, bins=2)
    assert source.groups is not None
    assert source.groups.tolist() == [0, 0, 1]
    assert source.labels.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<subject>", "not a regular expression"),
        (r"(?P<subject>\d+)A\d+", r"lacks the named group \(\?P<age>"),
        (r"(?P<subject>no)(?P<age>\d+)", r"matches none of 33 images, such as cover\.jpg"),
        (r"(?P<subject>\d+)(?P<age>A)", "age is not a whole number in .*001A"),
    ],
)
def test_bad_patterns_are_explained(tmp_path, pattern, message):
    with pytest.raises(UserError, match=message):
        faces_with_subjects(str(fg_net(tmp_path)), pattern=pattern, size=12)


def test_missing_data_say_where_to_get_them(tmp_path):
    for root in (None, str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="FG-NET"):
            faces_with_subjects(root)
