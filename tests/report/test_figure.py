"""The picture of a board."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from harness.report import board
from harness.report.figure import DARK, LIGHT, picture
from tests.report.boards import one
from tests.report.test_board_intervals import sure
from tests.support_cells import cell, failed

BOARD = [
    sure("retrain", 0.2),
    sure("identity", 0.05, floor=True),
    sure("good", 0.15),
    cell("no_interval", score=0.1),
    failed("broken"),
    failed("elsewhere", status="not_applicable"),
    cell("empty", score=None),
]


def words(svg: str) -> list[str]:
    """The texts of the picture, from the first to the last."""
    root = ElementTree.fromstring(svg.encode())
    return ["".join(text.itertext()).strip() for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_what_it_says():
    texts = words(picture([one(*BOARD)], dark=False))
    assert "digits/random, reuse_n_n, N = 8" in texts
    assert "score" in texts
    assert {"retrain 0.2000", "identity 0.0500", "0.1500", "0.1000"} <= set(texts)
    assert [text for text in texts if text in ("good", "no_interval", "retrain", "identity")] == ["good", "no_interval"]
    assert "Not shown: empty (no score), broken (failed), elsewhere (not applicable)." in texts
    assert any("95 % interval; shaded: 95 % of the scores of retrained" in text for text in texts)


def test_it_is_900_pixels_wide_and_refers_to_nothing():
    for dark in (False, True):
        svg = picture([one(*BOARD)], dark=dark)
        root = ElementTree.fromstring(svg.encode())
        assert root.get("width") == "675pt"  # 900 pixels of 96 an inch
        assert "@font-face" not in svg
        targets = re.findall(r"(?:href=\"|url\()([^\")]*)", svg)
        assert targets
        assert all(target.startswith("#") for target in targets)


def test_themes_differ_in_colours_alone():
    made = [one(*BOARD)]
    light, dark = picture(made, dark=False), picture(made, dark=True)
    assert LIGHT.background in light
    assert LIGHT.background not in dark
    assert DARK.background in dark

    def without_colours(svg):
        return re.sub(r"#[0-9a-f]{6}\b|\b[mp][0-9a-f]{10}\b", "", svg)  # nor names, which are made of the look

    assert without_colours(light) == without_colours(dark)


def test_the_same_board_gives_the_same_bytes():
    assert picture([one(*BOARD)], dark=False) == picture([one(*BOARD)], dark=False)


def test_boards_without_scores_say_so():
    few = one(*(cell(name, score=None, protocol__n=2) for name in ("retrain", "a")), failed("b", protocol__n=2))
    texts = words(picture([few], dark=False))
    assert texts == ["digits/random, reuse_n_n, N = 2", "No method has a score."]


def test_references_alone_are_no_methods():
    assert "No method has a score." in words(picture([one(*BOARD[:2])], dark=False))


def test_several_boards_are_panels_and_titles_tell_them_apart():
    others = [{"protocol__n": 16}, {"training": {"lr": 0.2, "epochs": 2}}]
    boards = board.build([cell("a"), *(cell("a", **changes) for changes in others)])
    texts = words(picture(boards, dark=False))
    assert "digits/random, reuse_n_n, N = 16" in texts
    joined = " ".join(texts)
    assert "train.lr=0.1" in joined
    assert "train.lr=0.2" in joined
    assert texts.count("a") == 3


def test_two_recipes_of_a_method_are_told_apart():
    texts = words(picture([one(cell("a", score=0.1), cell("a", score=0.2, recipe="tuned"))], dark=False))
    assert {"a (authors)", "a (tuned)"} <= set(texts)


@pytest.mark.parametrize("score", [0.0, -0.01])
def test_scores_without_extent_do_no_harm(score):
    values = {"score": cell("a", score=score).metrics["score"].model_copy(update={"null": None})}
    assert "a" in words(picture([one(cell("a", metrics=values))], dark=False))
