"""scikit-learn's handwritten digits: 1,797 grey 8×8 images in ten classes, embedded, the offline default."""

from __future__ import annotations

import numpy as np

from harness.task import Source


def digits() -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    images = data.images.astype(np.uint8)[..., None]
    return Source(name="digits", images=images, labels=data.target.astype(np.int64), classes=10)
