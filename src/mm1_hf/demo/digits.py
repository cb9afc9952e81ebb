"""Real handwritten digits, split so that test writers are never seen in training."""

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits

# The data set lists its samples writer by writer, so a cut in the order separates writers.
NUM_TRAINING_DIGITS = 1347


class Digits(NamedTuple):
    """Handwritten digits: `images` `(digits, 8, 8)`, ink from 0 to 16, and their `values`."""

    images: np.ndarray
    values: np.ndarray


class DigitSplit(NamedTuple):
    """Digits to learn from, and digits of other writers to be tested on."""

    train: Digits
    test: Digits


def load_split() -> DigitSplit:
    """Load the 1,797 digits that ship with scikit-learn: 1,347 to learn from, 450 to be tested on.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI (CC BY 4.0).
    """
    pixels, values = load_digits(return_X_y=True)
    images = np.asarray(pixels).reshape(-1, 8, 8)
    values = np.asarray(values)
    cut = NUM_TRAINING_DIGITS
    return DigitSplit(
        train=Digits(images[:cut], values[:cut]), test=Digits(images[cut:], values[cut:])
    )
