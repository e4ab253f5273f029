"""How a board looks: in a terminal, as Markdown and as LaTeX, and the files a run leaves."""

from __future__ import annotations

import re

import pandas as pd

from harness.report import board
from harness.report.documents import board_latex
from harness.scores import results
from tests.report.boards import markdown, one, row, terminal
from tests.report.test_board_intervals import sure
from tests.support_cells import cell, failed


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every Markdown table."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    return [[line.strip("|").split("|") for line in block.splitlines()] for block in blocks]


def test_markdown_is_well_formed():
    made = one(
        cell("retrain", score=0.3),
        cell("a|b", score=0.2, recipe="authors x=a|b"),
        failed("c", "draw 0: ValueError: a | b\nsecond line"),
        cell("d", score=None),
    )
    text = markdown(made)
    table, _ = tables(text)  # and what the columns mean
    assert len({len(line) for line in table}) == 1
    assert len(table) == 2 + 4
    assert set(table[1]) == {"---", "---:"}
    assert text.startswith("## digits, forget 80 of 400")
    assert "c: failed: draw 0: ValueError: a | b second line" in text
    assert "None" not in text
    assert "nan" not in text.replace("finetune", "")


def test_marks_and_footnotes():
    made = one(
        cell("retrain", score=0.3, cost__ratio=1.0),
        cell("slow", score=0.2, cost__ratio=0.5, cost__over_limit=True),
        cell("plain", score=0.15, cost__comparable=False),
    )
    for text in (terminal(made), markdown(made)):
        (slow,) = [line for line in text.splitlines() if "slow" in line]
        assert "50.0% !" in slow
        (plain,) = [line for line in text.splitlines() if "plain " in line and "~ a plain" not in line]
        assert "10.0% ~" in plain
        (retrain,) = [line for line in text.splitlines() if "100.0%" in line and "retrain" in line]
        assert "!" not in retrain
        assert "! over the cost limit: the competition would have rejected it" in text
        assert (
            "null, retrained against retrained at this N, mean and central 95 %: score 0.1500 (0.1000 to 0.2000)"
            in text
        )
        assert "retrain: references to read every score against, without a rank" in text
    quiet = terminal(one(cell("a")))
    for absent in ("! over", "~ a plain", "references"):
        assert absent not in quiet


REFERENCED = [cell("good", score=0.2), cell("identity", score=0.05, floor=True), cell("retrain", score=0.3)]


def test_references_stand_apart_in_every_medium():
    made = one(*REFERENCED)
    table, _ = tables(markdown(made))
    assert [line[1].strip() for line in table[2:]] == ["*retrain*", "*identity*", "good"]
    assert [line[0].strip() for line in table[2:]] == ["", "", "1"]
    lines = [line.strip() for line in terminal(made).splitlines()[1:]]
    starts = ["rule" if set(line) == {"─"} else line.split()[0] for line in lines]
    assert starts[:6] == ["#", "rule", "retrain", "identity", "rule", "1"]
    body = board_latex([made]).partition("\\midrule")[2]
    assert body.index("retrain") < body.index("identity") < body.index("\\midrule") < body.index("1 & good")


def test_without_methods_or_references_there_is_one_block():
    for cells in (REFERENCED[:1], REFERENCED[1:]):
        assert board_latex([one(*cells)]).count("\\midrule") == 1


def test_all_media_print_the_same_cells():
    made = one(*REFERENCED)
    table, _ = tables(markdown(made))
    good = [text.strip() for text in table[-1]]
    (in_terminal,) = [line.split() for line in terminal(made).splitlines() if "0.2000" in line and "null" not in line]
    assert in_terminal == good
    (in_latex,) = [line for line in board_latex([made]).splitlines() if "good" in line]
    assert in_latex.replace("\\%", "%").rstrip("\\ ").strip().split(" & ") == good


def test_latex_escapes_what_users_write():
    made = one(cell("a_b & 50% #1 {x} ~ ^ \\ $", task__name="faces_1"), failed("c", "exceeds 100 %"))
    text = board_latex([made])
    escaped = r"a\_b \& 50\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    assert f"1 & {escaped} & authors" in text
    assert r"\caption{faces\_1, forget 80 of 400" in text
    assert r"exceeds 100 \%" in text
    columns = re.search(r"begin\{tabular\}\{([lr]+)\}", text)[1]
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in rows} == {len(columns)}
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")


def test_latex_shows_intervals_and_minus_signs():
    text = board_latex([one(sure("retrain", 0.2), sure("identity", 0.1, floor=True), sure("worse", 0.05))])
    assert "0.190 to 0.210" in text
    assert "$-$0.50" in text


def test_one_original_is_flagged():
    text = "reuse_n_1: everything, the intervals too, is conditional on the one original"
    assert text in markdown(one(cell("a", protocol__kind="reuse_n_1")))
    assert text not in markdown(one(cell("a")))


def test_columns_are_explained(tmp_path):
    board.write(tmp_path, [one(cell("a"))])
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| forgetting_quality | higher |  | " in text
    assert "| kl | lower | 0 | " in text
    assert "exact_forgetting_quality" not in text


def test_what_a_method_chose_is_told():
    choices = [{"subset": "bn (8x)", "parameters": "322 (median)"}, {"subset": "bn (7x), all (1x)"}]
    cells = [cell("auto", seed=seed, chosen=chosen) for seed, chosen in enumerate(choices)]
    made = one(*cells, cell("plain"))
    text = "auto chose subset: bn (8x); parameters: 322 (median) | subset: bn (7x), all (1x)"
    assert text in " ".join(terminal(made).split())
    assert text in markdown(made)
    assert row(made, "plain")["chosen"] == ""


def test_warnings_are_shown_once():
    made = one(*(cell(m, warnings=["SANITY CHECK FAILED: look", "2 draws have NaN outputs"]) for m in "ab"))
    assert made.warnings == ["SANITY CHECK FAILED: look", "a: 2 draws have NaN outputs", "b: 2 draws have NaN outputs"]
    for text in (terminal(made), markdown(made)):
        assert text.count("SANITY CHECK FAILED") == 1
        assert text.count("2 draws have NaN") == 2


def test_brackets_in_names_are_not_markup():
    made = one(
        cell("a", recipe="authors layers=[conv]", task__name="faces[old]", warnings=["Look at [bold]this[/nothing]"]),
        failed("b", "ValueError: [red]no"),
    )
    text = terminal(made)
    for shown in ("layers=[conv]", "faces[old]", "[bold]this[/nothing]", "[red]no"):
        assert shown in text, shown


def test_written_files(tmp_path):
    for i, result in enumerate([cell("a", score=0.2), cell("b", score=0.3), failed("c")]):
        results.write(tmp_path / "cells", str(i), result, {})
    boards = board.rebuild(tmp_path)
    table = pd.read_csv(tmp_path / "leaderboard.csv", dtype={"rank": str, "seeds": str})
    assert list(table.columns) == list(boards[0].rows.columns)
    assert table["method"].tolist() == ["b", "a", "c"]
    assert table["rank"].tolist()[:2] == ["1", "2"]
    assert pd.isna(table["rank"][2])
    assert table["reason"][2] == "draw 0: ValueError: boom"
    names = {path.name for path in tmp_path.glob("leaderboard*")}
    assert names == {f"leaderboard{end}" for end in (".csv", ".md", ".tex", ".svg", "-dark.svg")}
    before = {name: (tmp_path / name).read_bytes() for name in names}
    board.rebuild(tmp_path)
    assert before == {name: (tmp_path / name).read_bytes() for name in before}
