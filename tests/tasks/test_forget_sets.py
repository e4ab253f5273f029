"""Every kind of forget set: what it holds, that it can be audited, and what is said when it cannot be made."""

import json
from functools import partial

import numpy as np
import pytest
from sklearn.datasets import load_digits

from harness.benchmark import from_config
from harness.command import compose
from harness.data.digits import digits
from harness.draws.memorisation import choose, memorisation, training_images
from harness.draws.store import Store
from harness.errors import UserError
from harness.run import fill_first, run
from harness.task import Source
from harness.tasks.index_files import write_audit
from harness.tasks.splits import make_task
from tests.in_process import in_process  # noqa: F401 - a fixture

MODEL = ["model.widths=[4,6,8]", "train.epochs=2", "train.batch_size=32", "train.lr=0.02"]
SMALL = ["data.train_limit=60", "data.test_limit=20", "protocol.n=2", "workers=1", "methods=[finetune]", *MODEL]


def task_of(source=None, split_seed=0, **forget):
    return make_task(source or digits(), forget=forget, split_seed=split_seed, train_limit=200, test_limit=100)


def people(n=30, each=5):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n * each, 4, 4, 1), dtype=np.uint8)
    return Source("people", images, np.arange(n * each) % 3, 3, groups=np.repeat(np.arange(n), each))


def benchmark_of(tmp_path, *arguments, fill=False):
    ((cfg, method),) = compose.configurations([*SMALL, *arguments, f"out={tmp_path / 'out'}"])
    fill = partial(fill_first, store=Store(), quiet=True) if fill else None
    return from_config(cfg, Store(), method_name=method, fill=fill)


def test_part_of_a_class():
    task = task_of(kind="class_part", label=3, n=7)
    forget = task.splits["forget"]
    assert len(forget) == 7
    assert set(task.labels[forget]) == {3}
    assert (task.labels[task.splits["retain"]] == 3).any()
    assert task.forgotten_class is None  # so test accuracy still counts the class
    with pytest.raises(UserError, match=r"forget\.n=500.*training images of class 3"):
        task_of(kind="class_part", label=3, n=500)
    with pytest.raises(UserError, match=r"forget\.label=10"):
        task_of(kind="class_part", label=10, n=5)


@pytest.mark.parametrize("fraction", [0.25, 0.001])
def test_a_fraction_of_the_people(fraction):
    task = make_task(
        people(), forget={"kind": "groups", "n": 10, "fraction": fraction}, split_seed=0, valid_fraction=0.2
    )
    trained = np.concatenate([task.splits["retain"], task.splits["forget"]])
    wanted = max(1, round(fraction * len(np.unique(task.groups[trained]))))
    assert len(np.unique(task.groups[task.splits["forget"]])) == wanted
    assert not np.isin(task.groups[task.splits["retain"]], task.groups[task.splits["forget"]]).any()


def test_bad_fractions():
    for fraction in (0, 1, -0.5):
        with pytest.raises(UserError, match=r"forget\.fraction"):
            make_task(people(), forget={"kind": "groups", "fraction": fraction}, split_seed=0)
    with pytest.raises(UserError, match=r"forget\.n, forget\.fraction or forget\.ids"):
        make_task(people(), forget={"kind": "groups", "n": None}, split_seed=0)


# --- lists of the user's --------------------------------------------------------------------------------------------


def written(folder, indices):
    np.save(folder / "list.npy", np.array(indices))
    (folder / "list.txt").write_text("# wanted out\n" + "\n".join(f"{i}  # {i}" for i in indices) + "\n\n")
    (folder / "list.json").write_text(json.dumps(list(indices)))
    (folder / "named.json").write_text(json.dumps({"forget": list(indices)}))
    return [folder / name for name in ("list.npy", "list.txt", "list.json", "named.json")]


def test_a_file_names_images_of_the_source(tmp_path):
    wanted = [1700, 3, 44, 901]
    tasks = [task_of(kind="file", path=str(file)) for file in written(tmp_path, wanted)]
    assert len({task.hash for task in tasks}) == 1
    assert tasks[0].source_index[tasks[0].splits["forget"]].tolist() == sorted(wanted)
    assert np.array_equal(tasks[0].images[tasks[0].splits["forget"]][..., 0], load_digits().images[sorted(wanted)])
    sizes = tasks[0].sizes()
    assert sizes["retain"] + sizes["forget"] == 200


def test_listed_images_bring_the_rest_of_their_people_into_training(tmp_path):
    file = written(tmp_path, [0, 6, 145])[0]  # of people 0, 1 and 29
    task = make_task(people(), forget={"kind": "file", "path": str(file)}, split_seed=0)
    retained = task.source_index[task.splits["retain"]]
    assert {1, 2, 3, 4, 5, 7, 8, 9, 146, 147, 148, 149} <= set(retained.tolist())


def test_an_official_test_image_cannot_be_forgotten(tmp_path):
    source = people()
    official = np.arange(150) >= 100
    source = Source("people", source.images, source.labels, 3, official_test=official)
    with pytest.raises(UserError, match=r"2 of the 3 listed images are not training images.*\[100, 149\]"):
        task_of(source, kind="file", path=str(written(tmp_path, [5, 100, 149])[0]))


def test_bad_lists_are_explained(tmp_path):
    files = {
        "empty.txt": ("", "the list is empty"),
        "words.txt": ("one\n", "cannot be read"),
        "twice.txt": ("3\n4\n3\n", "3 is listed twice"),
        "beyond.txt": ("1797\n", "1797 is not one of the source's images, 0 to 1796"),
        "negative.txt": ("-1\n", "-1 is not one of the source's images"),
        "list.csv": ("1\n", r"expected \.npy"),
        "broken.json": ("[1, 2", "cannot be read"),
        "object.json": ('{"remember": [1]}', "cannot be read"),
        "text.json": ('"3"', "not a list"),
        "floats.json": ("[1.5]", "expected a list of whole numbers"),
        "nested.json": ("[[1], [2]]", "expected a list of whole numbers"),
        "pickle.npy": ("not an array", "cannot be read"),
    }
    for name, (text, message) in files.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=message):
            task_of(kind="file", path=str(tmp_path / name))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        task_of(kind="file", path=str(tmp_path / "objects.npy"))
    with pytest.raises(UserError, match="no such file"):
        task_of(kind="file", path=str(tmp_path / "none.npy"))
    with pytest.raises(UserError, match=r"needs forget\.path"):
        task_of(kind="file", path=None)


# --- audits ---------------------------------------------------------------------------------------------------------


def test_the_audit_gives_every_split_in_source_numbers_and_serves_as_a_list(tmp_path):
    task = task_of(kind="random", n=20)
    file = write_audit(tmp_path, task, forget={"kind": "random", "n": 20}, split_seed=0)
    record = json.loads(file.read_text())
    assert file.name == f"{task.hash}.json"
    assert record["hash"] == task.hash
    assert record["forget"] == {"kind": "random", "n": 20}
    pixels = load_digits().images
    for name, indices in record["splits"].items():
        assert np.array_equal(pixels[indices], task.images[task.splits[name]][..., 0])
    again = task_of(kind="file", path=str(file))
    assert again.source_index[again.splits["forget"]].tolist() == record["splits"]["forget"]


@pytest.mark.usefixtures("in_process")
def test_a_run_leaves_its_audit_beside_results_that_carry_the_hash(tmp_path, store):
    benchmark = benchmark_of(tmp_path, "forget.n=10")
    cells = run(benchmark, store, quiet=True)
    (audit,) = (tmp_path / "out" / "tasks").iterdir()
    assert {cell.task.hash for cell in cells} == {json.loads(audit.read_text())["hash"]} == {audit.stem}
    from harness.report import board

    assert board.rebuild(tmp_path / "out")  # the audit is not taken for a result


# --- memorisation ---------------------------------------------------------------------------------------------------


def test_the_estimate_is_the_difference_of_two_shares():
    member = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 1, 1, 1], [0, 0, 1, 1]], bool)
    correct = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]], bool)
    scores = memorisation(correct=correct, member=member)
    assert scores[:3].tolist() == [1.0, 0.0, 0.0]
    assert np.isnan(scores[3])  # nobody left it out


def test_the_choice_takes_the_first_of_equals_and_none_without_an_estimate():
    scores = np.array([0.5, np.nan, 1.0, 0.0, 1.0, 0.4, -0.1])
    assert choose(scores, which="highest", n=2).tolist() == [2, 4]
    assert choose(scores, which="lowest", n=2).tolist() == [3, 6]
    assert choose(scores, which="middle", n=2).tolist() == [0, 5]
    with pytest.raises(UserError, match="known for 6 images only"):
        choose(scores, which="highest", n=7)


@pytest.mark.parametrize("engine", ["sequential", "stacked"])
def test_each_subset_model_sees_its_own_share(tmp_path, store, engine):
    options = ["forget=memorised", "forget.models=3", "forget.n=5", f"engine={engine}", "train.class_weights=balanced"]
    benchmark = benchmark_of(tmp_path, *options)
    (pool,) = benchmark.prepared.pools
    stage = pool.stage
    made = stage.make([0, 1, 2], store) if engine == "stacked" else [stage.make([i], store)[0] for i in range(3)]
    base = store.get_task(stage.task_hash)
    members = np.stack([draw.tensors["member"].numpy() for draw in made])
    assert members.sum(1).tolist() == [42, 42, 42]  # 70 % of 60
    assert members.shape[1] == len(training_images(base)) == 60
    assert len({row.tobytes() for row in members}) == 3
    alone = stage.make([1], store)[0]  # independent of the others in its stack
    assert np.array_equal(alone.tensors["member"], members[1])


@pytest.mark.usefixtures("in_process")
def test_memorised_images_are_chosen_by_a_pool_of_their_own_then_run(tmp_path, store):
    arguments = ["forget=memorised", "forget.models=10", "forget.n=10", "data.train_limit=100", "data.label_noise=0.15"]
    arguments += ["train.epochs=40", "train.lr=0.05", "model.widths=[8,16,32]"]
    planned = benchmark_of(tmp_path, *arguments)
    (subsets,) = planned.prepared.pools
    assert store.missing(subsets.stage.key, subsets.draws) == list(range(10))  # planning trains nothing
    assert planned.task.sizes()["forget"] == 10
    benchmark = benchmark_of(tmp_path, *arguments, fill=True)
    assert benchmark.prepared.pools == (subsets,)
    assert store.missing(subsets.stage.key, subsets.draws) == []
    assert benchmark.task.hash != planned.task.hash
    assert benchmark_of(tmp_path, *arguments).task.hash == benchmark.task.hash
    pool_keys = {pool.stage.key for pool in benchmark.pools()}
    assert subsets.stage.key not in pool_keys
    stages = (subsets.stage, benchmark.originals, benchmark.retrained)
    assert len({tuple(stage._seeds("init", [0])) for stage in stages}) == 3

    base = store.get_task(subsets.stage.task_hash)
    trained = base.source_index[training_images(base)]
    chosen = benchmark.task.source_index[benchmark.task.splits["forget"]]
    assert set(chosen) <= set(trained)
    for name in ("valid", "test"):
        assert np.array_equal(
            benchmark.task.source_index[benchmark.task.splits[name]], base.source_index[base.splits[name]]
        )
    others = {which: benchmark_of(tmp_path, *arguments, f"forget.which={which}") for which in ("lowest", "middle")}
    assert all(other.prepared.pools == (subsets,) for other in others.values())  # one pool serves all three
    assert not set(chosen) & set(others["lowest"].task.source_index[others["lowest"].task.splits["forget"]])
    assert wrong_labels(benchmark.task) >= 4  # a wrong label must be memorised
    assert wrong_labels(others["lowest"].task) == 0


def wrong_labels(task):
    forget = task.splits["forget"]
    return int((digits().labels[task.source_index[forget]] != task.labels[forget]).sum())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("forget.which=hightest", "did you mean highest"),
        ("forget.models=1", r"forget\.models=1: expected a whole number from 2"),
        ("forget.share=1.0", r"forget\.share"),
        ("forget.n=60", r"forget\.n=60: expected 1 to 59"),
    ],
)
def test_bad_options_of_memorised(tmp_path, store, change, message):
    with pytest.raises(UserError, match=message):
        benchmark_of(tmp_path, "forget=memorised", change)
