"""How sure a figure is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Estimate(NamedTuple):
    """A mean, and half the width of its 95 % interval: NaN where one value alone says nothing of the spread."""

    mean: float
    half_width: float


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of a few runs with Student's 95 % interval, which supposes them independent and roughly normal.

    Example:

    >>> estimate([0.80, 0.82, 0.84])
    Estimate(mean=0.82..., half_width=0.0496...)
    """
    values = np.asarray(values, np.float64)
    if len(values) < 2:
        return Estimate(float(values.mean()), math.nan)
    error = values.std(ddof=1) / math.sqrt(len(values))
    return Estimate(float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error))
