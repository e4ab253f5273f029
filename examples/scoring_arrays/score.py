"""Score logits of anybody's models: ``python score.py U.npy R.npy Y.npy``, shapes [N, S, C], [N, S, C] and [S]."""

from __future__ import annotations

import sys

import numpy as np

from harness.metrics import Outputs, confidences, forgetting_quality, get_metrics, official_epsilons

METRICS = ("exact", "ks", "kl", "class_kl", "disagreement")


def scores(*, unlearned: Outputs, retrained: Outputs) -> dict[str, float]:
    """Every number by its name; F is the forgetting quality, which needs 8 models of either kind."""
    epsilons = official_epsilons(unlearned=unlearned.confidences, retrained=retrained.confidences)  # [S]
    values = {
        "median ε": float(np.median(epsilons)),
        "F": forgetting_quality(epsilons, n=min(unlearned.n, retrained.n)),
    }
    for metric in get_metrics(METRICS):
        values |= metric.compute(unlearned=unlearned, retrained=retrained)
    return values


def main(unlearned_file: str, retrained_file: str, labels_file: str) -> None:
    labels = np.load(labels_file)
    unlearned, retrained = (
        Outputs(confidences=confidences(logits, labels), logits=logits, accuracy={})
        for logits in (np.load(unlearned_file), np.load(retrained_file))
    )
    half = retrained.n // 2
    null = scores(unlearned=retrained.take(slice(half)), retrained=retrained.take(slice(half, 2 * half)))
    print(f"{'':26} {'unlearned':>10} {'retrained':>10}")
    for name, value in scores(unlearned=unlearned, retrained=retrained).items():
        print(f"{name:26} {value:10.4f} {null[name]:10.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
