"""Levels one by one: their mean, deviation and interval, and how far a published figure is."""

import dataclasses
import math
from collections.abc import Mapping
from numbers import Real

import numpy as np

from rrd_jax import errors

Seeded = Mapping[int, float]  # seed -> figure in per cent; a failed seed is absent

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
# Accuracies are counted in float32: two equal differences may differ by 2e-7 of the figures. One
# of ImageNet's 50 000 test images is 2e-5 of 91 per cent.
ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Summary:
    """The figures of one level.

    Attributes:
      n: number of seeds.
      mean: in per cent; None where every seed failed.
      std: sample standard deviation in points; None for fewer than two seeds.
      low: lower end of the mean's 95 % t interval; None for fewer than two seeds.
      high: its upper end.
      seeds: in their order.
    """

    n: int
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    seeds: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Published:
    """Our mean beside a published figure; see `against_published`.

    Attributes:
      published: in per cent.
      difference: ours less the published one, in points; None where every seed failed.
      standard_errors: the difference in standard errors of our mean; None where we have fewer than
        two seeds, or seeds without spread.
      n: our number of seeds.
    """

    published: float
    difference: float | None
    standard_errors: float | None
    n: int


def summarize(values: Seeded) -> Summary:
    """Mean, deviation and interval of the figures of one level.

    Args:
      values: of its seeds.

    Raises:
      InputError: a seed is no whole number, or a figure no finite one.
    """
    check_figures("a level", values)
    seeds = tuple(sorted(values))
    if not seeds:
        return Summary(0, None, None, None, None, ())
    figures = np.array([values[seed] for seed in seeds], np.float64)
    mean = float(figures.mean())
    if len(figures) == 1:
        return Summary(1, mean, None, None, None, seeds)
    if is_constant(figures, np.abs(figures).max()):
        return Summary(len(figures), mean, 0.0, mean, mean, seeds)
    low, high, _ = t_test(figures)
    return Summary(len(figures), mean, float(figures.std(ddof=1)), low, high, seeds)


def against_published(summary: Summary, published: float) -> Published:
    """Our mean less a published figure, in points and in standard errors of our mean.

    The published figure has an error of its own, which is seldom printed: it is often one run, or
    the best epoch. It is taken as exact here, so that the difference looks larger in standard
    errors than it is. With one seed even our own error is unknown.

    Args:
      summary: of our seeds.
      published: in per cent.

    Raises:
      InputError: the published figure is no finite number.
    """
    check_figure(published, "the published level", "figure")
    published = float(published)
    if summary.mean is None:
        return Published(published, None, None, 0)
    difference = summary.mean - published
    if not summary.std:
        return Published(published, difference, None, summary.n)
    error = summary.std / math.sqrt(summary.n)
    return Published(published, difference, difference / error, summary.n)


def t_test(figures: np.ndarray) -> tuple[float, float, float]:
    """The 95 % interval of the mean of [n], and p of a mean of 0."""
    from scipy import stats

    result = stats.ttest_1samp(figures, 0.0)
    interval = result.confidence_interval(CONFIDENCE)
    return float(interval.low), float(interval.high), float(result.pvalue)


def is_constant(figures: np.ndarray, scale: float) -> bool:
    """Whether they are equal but for rounding, as figures of that size have it."""
    return bool(np.ptp(figures) <= ROUNDING * scale)


def check_figure(value: float, of: str, place: str) -> None:
    """Raises an InputError for what is no finite number.

    Args:
      value: the figure.
      of: whose it is, for the message.
      place: what is to be left out where it failed, such as "seed".
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        raise errors.InputError(
            f"the figure of {of} is {value!r}, but must be a finite number; leave out a {place}"
            " that failed"
        )


def check_figures(name: str, values: Seeded) -> None:
    """As `check_figure`, for all seeds of a level, which must be whole numbers themselves."""
    for seed, value in values.items():
        if not errors.is_whole(seed):  # keys of JSON are text
            raise errors.InputError(f"seed {seed!r} of {name} must be a whole number")
        check_figure(value, f"{name} with seed {seed}", "seed")
