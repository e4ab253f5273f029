"""The embedded data set."""

import numpy as np

from harness.data.digits import digits


def test_digits():
    source = digits()
    assert source.name == "digits"
    assert source.classes == 10
    assert source.images.shape == (1797, 8, 8, 1)
    assert source.images.dtype == np.uint8
    assert (source.images.min(), source.images.max()) == (0, 16)
    assert source.labels.dtype == np.int64
    assert source.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert np.bincount(source.labels).min() > 170
    assert source.groups is None
    assert source.official_test is None


def test_digits_has_no_copies():
    images = digits().images.reshape(1797, -1)
    assert len(np.unique(images, axis=0)) == 1797
