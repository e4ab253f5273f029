"""How many draws of which kind, and from which originals."""

from __future__ import annotations

import pytest

from harness.errors import UserError
from harness.protocols import Protocol


def test_reuse_n_n():
    protocol = Protocol(kind="reuse_n_n", n=4)
    assert protocol.originals == protocol.draws == (0, 1, 2, 3)
    assert protocol.source == "paired"
    assert protocol.of_experiment(0) == (0, 1, 2, 3)


def test_reuse_n_1():
    protocol = Protocol(kind="reuse_n_1", n=4)
    assert protocol.originals == (0,)
    assert protocol.draws == (0, 1, 2, 3)
    assert protocol.source == "single"


def test_full_shares_nothing_between_experiments():
    protocol = Protocol(kind="full", n=3, experiments=2)
    assert protocol.originals == protocol.draws == tuple(range(6))
    assert protocol.source == "paired"
    assert [protocol.of_experiment(e) for e in range(2)] == [(0, 1, 2), (3, 4, 5)]


def test_from_config():
    assert Protocol.read({"kind": "full", "n": 8, "experiments": 5}, "protocol") == Protocol(
        kind="full", n=8, experiments=5
    )
    assert Protocol.read({"kind": "reuse_n_n", "n": 8}, "protocol").experiments == 1


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"kind": "reuse", "n": 8}, "unknown protocol.kind 'reuse': did you mean reuse_n_"),
        ({"kind": "full", "n": 1}, "protocol.n=1: expected a whole number, at least 2"),
        ({"kind": "full", "n": 0}, "protocol.n=0: expected"),
        ({"kind": "full", "n": -3}, "protocol.n=-3: expected"),
        ({"kind": "full", "n": 8.5}, "protocol.n=8.5: expected a whole number"),
        ({"kind": "full", "n": "eight"}, "protocol.n=eight: expected a whole number"),
        ({"kind": "full", "n": None}, "protocol.n=null: expected a whole number"),
        (
            {"kind": "full", "n": 8, "experiments": 0},
            "protocol.experiments=0: expected a whole number, at least 1",
        ),
        ({"kind": "reuse_n_n", "n": 8, "experiments": 2}, "protocol.experiments=2: only protocol=full repeats"),
        ({"kind": "reuse_n_n", "n": 8, "experimets": 2}, "unknown key 'protocol.experimets': did you mean experiments"),
    ],
)
def test_refused(node, message):
    with pytest.raises(UserError, match=message):
        Protocol.read(node, "protocol")
