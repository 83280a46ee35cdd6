"""Statistics over seeds: summaries, and paired differences with Holm's correction.

    levels = {"ce": {0: 91.4, 1: 91.5, 2: 91.5}, "rrd": {0: 92.1, 1: 92.0, 2: 92.2}}
    difference = differences(levels, baseline="ce")["rrd"]
    print(difference.mean, difference.low, difference.high, difference.verdict)

A level is one choice of a factor, such as a method. Its values are percentages by seed; larger is
better, and failed seeds are absent. Two levels are compared over their common seeds, with paired
differences, because a seed determines the initial weights and the batches.
"""

import dataclasses
import functools
import importlib
import math
import types
from collections.abc import Mapping
from numbers import Real

import numpy as np

from rrd_jax import errors

# Percentages by seed.
Values = Mapping[int, float]

ALPHA = 0.05
_POWER = 0.8
# Accuracies are computed in float32: two equal differences may differ by 2e-7 of the values. One of
# ImageNet's 50 000 test images is 2e-5 of 91 percent.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean, standard deviation and confidence interval of a level.

    Attributes:
      n: number of seeds.
      mean: mean in percent; None without seeds.
      std: sample standard deviation in points; None for fewer than two seeds.
      low: lower end of the 95 % t interval of the mean; None for fewer than two seeds.
      high: upper end of the interval.
      seeds: the seeds, in ascending order.
    """

    n: int
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean difference between a level and the baseline, over their common seeds.

    If the difference is the same for every seed, there is no spread to estimate noise from. The
    interval then has no width, and p comes from the sign test: 2^(1 - n), the smallest p that n
    equal signs can have. Equal values have p = 1.

    Attributes:
      n: number of common seeds.
      mean: mean difference in points; None without a common seed.
      std: sample standard deviation of the differences; None for fewer than two seeds.
      low: lower end of the 95 % t interval of the mean, not corrected for other comparisons; None
        for fewer than two seeds.
      high: upper end of the interval.
      p: two-sided p of the paired t test; None for fewer than two seeds.
      p_adjusted: p corrected with Holm's method over all comparisons with the baseline.
      verdict: "better", "worse" or "not distinguishable", by p_adjusted at 0.05; "one seed" or "no
        common seed" if there is no test.
      detectable: see `detectable_difference`; None without spread.
      seeds: the common seeds.
    """

    n: int
    verdict: str
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    p_adjusted: float | None = None
    detectable: float | None = None
    seeds: tuple[int, ...] = ()


def summarize(values: Values) -> Summary:
    """Computes mean, standard deviation and 95 % t interval of a level's values.

    Raises:
      InputError: a seed is not an integer, or a value is not a finite number.
    """
    _check("a level", values)
    seeds = tuple(sorted(values))
    if not seeds:
        return Summary(0)
    array = np.array([values[seed] for seed in seeds], np.float64)
    mean = float(array.mean())
    if len(array) == 1:
        return Summary(1, mean, seeds=seeds)
    if _is_constant(array, np.abs(array).max()):
        return Summary(len(array), mean, 0.0, mean, mean, seeds)
    low, high, _ = _t_test(array)
    return Summary(len(array), mean, float(array.std(ddof=1)), low, high, seeds)


def differences(levels: Mapping[str, Values], baseline: str) -> dict[str, Difference]:
    """Compares each other level with the baseline, with Holm's correction over all comparisons.

    Args:
      levels: values by name of the level.
      baseline: the name of a level.

    Raises:
      InputError: the baseline is unknown, a seed is not an integer, or a value is not finite.
      UnavailableError: statsmodels is not installed.
    """
    errors.lookup("level", baseline, levels)
    for name, values in levels.items():
        _check(f"'{name}'", values)
    compared = {
        name: _compare(values, levels[baseline])
        for name, values in levels.items()
        if name != baseline
    }
    tested = [name for name, difference in compared.items() if difference.p is not None]
    adjusted = _holm([compared[name].p for name in tested])
    for name, p_adjusted in zip(tested, adjusted, strict=True):
        difference = compared[name]
        verdict = "not distinguishable"
        if p_adjusted < ALPHA:
            verdict = "better" if difference.mean > 0 else "worse"
        detectable = None
        if difference.std:
            detectable = detectable_difference(difference.std, difference.n, len(tested))
        compared[name] = dataclasses.replace(
            difference,
            p_adjusted=p_adjusted,
            verdict=verdict,
            detectable=detectable,
        )
    return compared


def detectable_difference(std: float, n: int, comparisons: int = 1) -> float:
    """Returns the smallest true difference that a paired t test detects with 80 % power.

    The result is an estimate, because a standard deviation measured over a few seeds is uncertain:
    with five seeds, the true deviation is 0.6 to 2.9 times the measured deviation.

    Args:
      std: standard deviation of the paired differences, in points.
      n: number of seeds, at least 2.
      comparisons: number of comparisons; the significance level is divided by this number, as in
        the first step of Holm's method.
    """
    return std * _detectable_effect(n, comparisons)


@functools.cache
def _detectable_effect(n: int, comparisons: int) -> float:
    """Returns the detectable difference in units of the standard deviation."""
    solver = _statsmodels("power").TTestPower()
    # The opposite tail of a two-sided test adds no power at 80 %, and SciPy returns NaN for it.
    level = ALPHA / comparisons / 2
    return float(solver.solve_power(nobs=n, alpha=level, power=_POWER, alternative="larger"))


def _compare(level: Values, baseline: Values) -> Difference:
    """Compares two levels, before the correction for other comparisons."""
    from scipy import stats

    seeds = tuple(sorted(level.keys() & baseline.keys()))
    if not seeds:
        return Difference(0, "no common seed")
    left, right = (np.array([x[seed] for seed in seeds], float) for x in (level, baseline))
    paired = left - right
    n, mean = len(seeds), float(paired.mean())
    if n == 1:
        return Difference(1, "one seed", mean, seeds=seeds)
    scale = np.abs([left, right]).max()
    if _is_constant(paired, scale):
        mean = 0.0 if abs(mean) <= _ROUNDING * scale else mean
        # The sign test.
        p = float(stats.binomtest(n, n).pvalue) if mean else 1.0
        return Difference(n, "", mean, 0.0, mean, mean, p, seeds=seeds)
    low, high, p = _t_test(paired)
    return Difference(n, "", mean, float(paired.std(ddof=1)), low, high, p, seeds=seeds)


def _t_test(values: np.ndarray) -> tuple[float, float, float]:
    """Returns the 95 % interval of the mean of values [n], and p for a mean of 0."""
    from scipy import stats

    result = stats.ttest_1samp(values, 0.0)
    interval = result.confidence_interval(1 - ALPHA)
    return float(interval.low), float(interval.high), float(result.pvalue)


def _holm(values: list[float]) -> list[float]:
    if len(values) < 2:
        return values
    corrected = _statsmodels("multitest").multipletests(values, ALPHA, method="holm")[1]
    return [float(p) for p in corrected]


def _statsmodels(module: str) -> types.ModuleType:
    try:
        return importlib.import_module(f"statsmodels.stats.{module}")
    except ImportError as error:
        raise errors.UnavailableError(
            f"comparisons need statsmodels, which cannot be imported ({error}); run"
            " `pip install 'rrd_jax[studies]'`"
        ) from error


def _is_constant(values: np.ndarray, scale: float) -> bool:
    """Returns True if the values are equal up to rounding errors relative to `scale`."""
    return bool(np.ptp(values) <= _ROUNDING * scale)


def _check(name: str, values: Values) -> None:
    for seed, value in values.items():
        # Seeds that are read from JSON keys are strings.
        if not errors.is_whole(seed):
            raise errors.InputError(f"seed {seed!r} of {name} must be an integer; convert it")
        if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
            raise errors.InputError(
                f"seed {seed} of {name} has the value {value!r}, but must have a finite number;"
                " leave out failed seeds"
            )
