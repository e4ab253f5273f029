"""The pages keep their promises: every command composes, every link leads somewhere, tables agree with the code."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.command.compose import check
from harness.metrics import Column, available, get_metrics
from harness.registry import methods
from harness.registry.catalogue import names, own_groups

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
FRONT = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")]
EXAMPLES = sorted((ROOT / "examples").rglob("README.md"))
PAGES = [*FRONT, *DOCS, *EXAMPLES]

SUBCOMMANDS = {"plan", "leaderboard", "score", "protocols", "list"}
# What a page names but this checkout lacks: a launcher that is installed apart, and a method of the examples.
STANDS_FOR = {
    "hydra/launcher=submitit_slurm": "hydra/launcher=joblib",
    "hydra.launcher.timeout_min=600": "",
    "method=shrink_and_perturb": "method=finetune",
    "method.keep=0.5": "",
    "methods=[shrink_and_perturb,smooth_forget,finetune]": "methods=[finetune]",
    "method=my_method": "method=finetune",
    "method=NAME": "method=finetune",
    "...": "",
}
BANNED = ["dear", "dearer", "folded at 0", "say what they mean", "what redraws"]


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """Every ``unlearn ...`` of a page, in blocks of code and within sentences, without comments."""
    text = page.read_text()
    blocks = re.findall(r"^```(?:sh)?\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", without_code(text))
    for line in lines:
        line = re.sub(r"\s+#.*", "", line).strip()
        if line == "unlearn" or line.startswith("unlearn "):
            yield line


COMMANDS = sorted({(relative(page), command) for page in PAGES for command in commands(page)})


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_every_command_can_be_typed(page, command):
    words = [STANDS_FOR.get(word, word) for word in shlex.split(command)[1:]]
    words = [word.replace("$UNLEARN_DATA", "data") for word in words if word]
    if not words or words[0] not in SUBCOMMANDS:
        check(words)
        return
    subcommand, *rest = words
    if subcommand == "plan":
        check(rest)
    elif subcommand == "list":
        kinds = {*own_groups(), "metrics"}
        assert all(kind in kinds or kind.removesuffix("s") in kinds for kind in rest)
    elif rest:  # a subcommand alone is only mentioned
        folder, *choices = rest
        assert "=" not in folder
        for choice in choices:
            assert subcommand == "score"
            assert get_metrics(re.fullmatch(r"metrics=\[(.+)\]", choice)[1].split(","))


def test_the_commands_are_seen():
    """That the search above finds what a reader sees: one command in a block and one in a sentence."""
    assert ("README.md", "unlearn method=fanchuan method.epochs=4 protocol.n=64") in COMMANDS
    assert ("docs/protocols.md", "unlearn experiment=protocol_study") in COMMANDS
    assert len(COMMANDS) > 30


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_link_and_picture_leads_somewhere(page):
    text = without_code(page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|srcset|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_file_that_is_named_exists(page):
    top = "harness|methods|conf|benchmarks|tests|docs|results|examples"
    for path in re.findall(rf"`((?:{top})/[\w./]*)`", page.read_text()):
        assert (ROOT / path).exists() or re.search("[A-Z]{3}|my_", path), path  # conf/method/NAME.yaml


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_plain_words_and_short_lines(page):
    text = page.read_text()
    prose = without_code(text)
    for phrase in BANNED:
        assert not re.search(rf"\b{phrase}\b", prose, flags=re.IGNORECASE), phrase
    long = [line for line in prose.splitlines() if len(line) > 130 and not line.startswith(("|", "  <", "<"))]
    assert not long


# --- tables ---------------------------------------------------------------------------------------------------------


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of every row of the tables below a heading, up to the next heading of that level."""
    text = f"\n{(ROOT / 'docs' / page).read_text()}".split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("|--")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def spread(cell: str, count: int) -> list[str]:
    """One entry per column: a single entry stands for all."""
    entries = [entry.strip() for entry in cell.split(",")]
    return entries * count if len(entries) == 1 else entries


def test_the_table_of_metrics_is_what_the_metrics_declare():
    declared = {(metric.name, c.name): c for metric in get_metrics(available()) for c in metric.columns}
    written: dict[tuple[str, str], tuple[str, str]] = {}
    for name, columns, better, ideal, *_ in rows("metrics.md", "## All metrics")[1:]:
        own = re.findall(r"`(\w+)`", columns)
        for column, *means in zip(own, spread(better, len(own)), spread(ideal, len(own)), strict=True):
            written[name.strip("`"), column] = tuple(means)
    assert written == {key: (column.direction, ideal_of(column)) for key, column in declared.items()}


def ideal_of(column: Column) -> str:
    return "–" if column.ideal is None else f"{column.ideal:g}"


def test_the_tables_of_choices_name_all_there_is():
    for group, heading in (("data", "## Data"), ("forget", "## Forget sets")):
        first_cells = " ".join(row[0] for row in rows("tasks.md", heading)[1:])
        assert set(re.findall(r"`(\w+)`", first_cells)) == set(names(group))
    models = (ROOT / "docs" / "tasks.md").read_text().split("## Models")[1].split("##")[0]
    assert set(names("model")) <= set(re.findall(r"`(\w+)`", models))
    protocols = {re.findall(r"`(\w+)`", row[0])[0] for row in rows("protocols.md", "# Protocols")[1:]}
    assert protocols == set(names("protocol"))


CONSTANTS = {  # words of a method's row in docs/methods.md, and the setting that makes them true
    ("finetune", "1 epoch"): {"epochs": 1},
    ("gradient_ascent", "lr 5e-4"): {"lr": 5e-4},
    ("fanchuan", "8 × (contrastive"): {"epochs": 8},
    ("kookmin", "the 30 % of each convolution"): {"reinitialise": 0.3, "scope": "layer"},
    ("kookmin", "CE, 5 epochs; kept convolution weights at a tenth"): {"epochs": 5, "kept_gradient": 0.1},
    ("seif", "N(0, 0.6²) on the first convolution; 0.005"): {"first_noise": 0.6, "last_noise": 5e-3},
    ("seif", "the others at 0.05, 4 epochs"): {"other_classes_weight": 0.05, "epochs": 4},
    ("sebastian", "the 99 % smallest weights"): {"prune": 0.99},
    ("sebastian", "3.2 epochs"): {"epochs": 3.2},
    ("toshi_k", "CE, 3 epochs"): {"epochs": 3},
    ("amnesiacs", "3 epochs distilling on valid, 3 on retain"): {"warm_up_epochs": 3, "repair_epochs": 3},
    ("amnesiacs", "T = 5"): {"temperature": 5},
    ("sun", "N(0, 0.04²) on 6 of 9"): {"noise": 0.04, "selected": 9, "noisy_share": 0.7},
    ("sun", "train in the first five"): {"partial_epochs": 5},
    ("forget", "6 random parameter tensors"): {"tensors": 6},
    ("forget", "noise 0.01; 1, 2, 2 epochs"): {"noise": 0.01, "cycles": [1, 2, 2]},
    ("random_mask", "half of every tensor"): {"masked": 0.5},
    ("random_mask", "Adam, 5 epochs"): {"epochs": 5},
    ("neggrad_plus", "α = 0.9999"): {"alpha": 0.9999},
    ("random_labels", "10 epochs"): {"epochs": 10},
    ("bad_teacher", "30 % of retain, mixed batches, 1 epoch"): {"retain_share": 0.3, "epochs": 1},
    ("scrub", "on forget, 3 epochs"): {"ascent_epochs": 3},
    ("scrub", "on retain, 5 epochs"): {"epochs": 5},
    ("l1_sparse", "5e-4 is recalled"): {"alpha": 5e-4},
    ("l1_sparse", "CE, 10 epochs"): {"epochs": 10},
    ("salun", "the 50 % of weights"): {"density": 0.5},
    ("ssd", "exceeds 10 ×"): {"alpha": 10},
    ("ssd", "theirs, 128"): {"batch_size": 128},
    ("cf_k", "30 epochs"): {"epochs": 30},
    ("cf_k", "k = 1"): {"k": 1},
    ("eu_k", "62 epochs"): {"epochs": 62},
    ("sfron", "4.73 epochs"): {"epochs": 4.73},
    ("sfron", "every fifth step"): {"forget_every": 5},
}


def row_of(method: str) -> str:
    lines = (ROOT / "docs" / "methods.md").read_text().splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{method}`")]
    return row


@pytest.mark.parametrize(("method", "words"), CONSTANTS)
def test_constants_named_on_the_page_of_methods(method, words):
    assert words in row_of(method)
    settings = CONSTANTS[method, words]
    assert {key: methods.defaults(method)[key] for key in settings} == settings


def test_settings_named_on_the_page_of_methods_exist():
    """``key=value`` and ``key: value`` within code, in the row of a method."""
    for method in names("method"):
        for code in re.findall(r"`([^`]+)`", row_of(method)):
            for key in re.findall(r"(\w+)(?:=|: )", code):
                assert key in methods.defaults(method), f"{method}: {code}"


# --- files beside the pages -----------------------------------------------------------------------------------------


def test_the_citation_is_complete():
    cff = OmegaConf.to_container(OmegaConf.create((ROOT / "CITATION.cff").read_text()))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(cff)
    assert cff["cff-version"] == "1.2.0"
    assert cff["license"] == "Apache-2.0"
    assert "2406.09073" in str(cff["references"])


def test_continuous_integration_runs_what_the_readme_says():
    workflow = OmegaConf.to_container(OmegaConf.create((ROOT / ".github" / "workflows" / "ci.yml").read_text()))
    (job,) = workflow["jobs"].values()
    assert ".ci/run" in [step.get("run") for step in job["steps"]]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o100
