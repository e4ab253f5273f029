"""Logits to score, made without this project: scikit-learn networks on digits, unlearned by training on.

Writes U.npy and R.npy, logits [N, S, C] of unlearned and of retrained models on the forget set, and Y.npy, its labels [S].
"""

from __future__ import annotations

import sys
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

FORGET, TRAIN, EPOCHS, MORE_EPOCHS = 40, 300, 60, 5


def main(n: int) -> None:
    warnings.simplefilter("ignore", ConvergenceWarning)  # it stops after EPOCHS on purpose
    images, labels = load_digits(return_X_y=True)
    images, labels = images[:TRAIN] / 16, labels[:TRAIN]
    forget, retain = slice(0, FORGET), slice(FORGET, TRAIN)

    def trained(part: slice, seed: int) -> MLPClassifier:
        return MLPClassifier((32,), max_iter=EPOCHS, random_state=seed).fit(images[part], labels[part])

    def logits(model: MLPClassifier) -> NDArray[np.float64]:
        return np.log(np.maximum(model.predict_proba(images[forget]), 1e-30))  # logits up to a constant

    def unlearned(seed: int) -> MLPClassifier:
        model = trained(slice(0, TRAIN), seed)
        for _ in range(MORE_EPOCHS):
            model.partial_fit(images[retain], labels[retain])
        return model

    np.save("U.npy", np.stack([logits(unlearned(seed)) for seed in range(n)]))
    np.save("R.npy", np.stack([logits(trained(retain, n + seed)) for seed in range(n)]))  # other seeds: never paired
    np.save("Y.npy", labels[forget])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32)
