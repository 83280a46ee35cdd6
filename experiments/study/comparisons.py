"""Paired differences between levels, with their intervals and tests."""

import dataclasses
import functools
import importlib
import itertools
import types
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from experiments.study.levels import (
    ALPHA,
    CONFIDENCE,
    ROUNDING,
    Seeded,
    check_figures,
    is_constant,
    t_test,
)
from rrd_jax import errors

_POWER = 0.8
_Key = TypeVar("_Key", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far a level is above a baseline, over the seeds that both have.

    Where the figures differ by the same amount on every seed, there is no spread that a t test
    could measure noise by: the intervals have no width, and p is the sign test's, 2^(1 - n), the
    most that n equal signs can say. Five equal differences are thus not enough for a verdict, six
    are. Accuracies on few test images take few values, so that equal differences do happen. Equal
    figures have p = 1.

    Attributes:
      n: number of seeds that both have.
      mean: of the differences, in points; None without a common seed.
      low: lower end of the mean's 95 % t interval, not corrected for other comparisons; None for
        fewer than two seeds.
      high: its upper end.
      boot_low: lower end of the 95 % bootstrap interval (BCa); None for fewer than two seeds. With
        few seeds it is too narrow: of normal figures it covers 51 % with 2 seeds, 71 % with 3, 85 %
        with 5, 90 % with 10, 93 % with 20. Below about 20 seeds, believe the t interval.
      boot_high: its upper end.
      p: of the paired t test, two-sided; None for fewer than two seeds.
      p_adjusted: p after Holm over all comparisons that were made together.
      verdict: "better", "worse" or "not distinguishable" by p_adjusted at 0.05; "one seed", or "no
        common seed", where there is no test.
      std: sample standard deviation of the differences; None for fewer than two seeds.
      comparisons: number of tests that Holm has corrected for.
      detectable: see `detectable_difference`; None where there is no spread.
      seeds: those that both have.
    """

    n: int
    mean: float | None
    low: float | None
    high: float | None
    boot_low: float | None
    boot_high: float | None
    p: float | None
    p_adjusted: float | None
    verdict: str
    std: float | None = None
    comparisons: int = 1
    detectable: float | None = None
    seeds: tuple[int, ...] = ()


def differences(
    levels: Mapping[str, Seeded], baseline: str, *, resamples: int = 9999
) -> dict[str, Difference]:
    """All other levels less the baseline, with Holm's correction over them.

    Args:
      levels: by name.
      baseline: the name of one.
      resamples: of the bootstrap; 0 leaves its intervals out.

    Raises:
      InputError: the baseline is unknown, a seed is no whole number, or a figure no finite one.
      UnavailableError: statsmodels is not installed.
    """
    errors.lookup("level", baseline, levels)
    pairs = {name: (levels[name], levels[baseline]) for name in levels if name != baseline}
    return _family(levels, pairs, resamples)


def pairwise(
    levels: Mapping[str, Seeded], *, resamples: int = 9999
) -> dict[tuple[str, str], Difference]:
    """The first less the second of all pairs of levels, with Holm's correction over all of them.

    Args:
      levels: by name; each pair is met once, in their order.
      resamples: of the bootstrap; 0 leaves its intervals out.

    Raises:
      InputError: a seed is no whole number, or a figure no finite one.
      UnavailableError: statsmodels is not installed.
    """
    pairs = {pair: (levels[pair[0]], levels[pair[1]]) for pair in itertools.combinations(levels, 2)}
    return _family(levels, pairs, resamples)


def detectable_difference(std: float, n: int, comparisons: int = 1) -> float:
    """The smallest true difference that a paired t test over n seeds shows with 80 % power.

    "Not distinguishable" says little where this is large. It is an estimate: a deviation that was
    measured on a few seeds is itself uncertain; with five, the true one is 0.6 to 2.9 times it.

    Args:
      std: standard deviation of the paired differences, in points.
      n: number of seeds, at least 2.
      comparisons: of the family. The level is divided by it, as the first step of Holm does.

    Returns:
      Points.
    """
    return std * _detectable_effect(n, comparisons)


@functools.cache
def _detectable_effect(n: int, comparisons: int) -> float:
    """In standard deviations."""
    solver = _statsmodels("power").TTestPower()
    # The tail on the wrong side of a two-sided test adds nothing at 80 %, and SciPy has NaN there.
    level = ALPHA / comparisons / 2
    return float(solver.solve_power(nobs=n, alpha=level, power=_POWER, alternative="larger"))


def _family(
    levels: Mapping[str, Seeded], pairs: Mapping[_Key, tuple[Seeded, Seeded]], resamples: int
) -> dict[_Key, Difference]:
    """The differences of pairs that are corrected together."""
    for name, values in levels.items():
        check_figures(f"'{name}'", values)
    single = {key: _compare(*pair, resamples) for key, pair in pairs.items()}
    tested = [key for key, difference in single.items() if difference.p is not None]
    adjusted = dict(zip(tested, _holm([single[key].p for key in tested]), strict=True))
    return {
        key: _with_verdict(difference, adjusted[key], len(tested))
        if key in adjusted
        else difference
        for key, difference in single.items()
    }


def _compare(level: Seeded, baseline: Seeded, resamples: int) -> Difference:
    """A difference that is not corrected for others yet."""
    seeds = tuple(sorted(level.keys() & baseline.keys()))
    nothing = [None] * 6
    if not seeds:
        return Difference(0, None, *nothing, verdict="no common seed")
    figures, others = (np.array([x[seed] for seed in seeds], float) for x in (level, baseline))
    paired = figures - others
    n, mean = len(seeds), float(paired.mean())
    if n == 1:
        return Difference(1, mean, *nothing, verdict="one seed", seeds=seeds)
    scale = np.abs([figures, others]).max()
    if is_constant(paired, scale):
        if abs(mean) <= ROUNDING * scale:
            mean = 0.0
        p = _sign_test(n) if mean else 1.0
        return Difference(n, mean, *[mean] * 4, p, p, verdict="", std=0.0, seeds=seeds)
    low, high, p = t_test(paired)
    bounds = low, high, *_bootstrap(paired, resamples)
    std = float(paired.std(ddof=1))
    return Difference(n, mean, *bounds, p, p, verdict="", std=std, seeds=seeds)


def _with_verdict(difference: Difference, p_adjusted: float, comparisons: int) -> Difference:
    verdict = "not distinguishable"
    if p_adjusted < ALPHA:
        verdict = "better" if difference.mean > 0 else "worse"
    detectable = None
    if difference.std:
        detectable = detectable_difference(difference.std, difference.n, comparisons)
    return dataclasses.replace(
        difference,
        p_adjusted=p_adjusted,
        verdict=verdict,
        comparisons=comparisons,
        detectable=detectable,
    )


def _sign_test(n: int) -> float:
    """Of n differences of the same sign."""
    from scipy import stats

    return float(stats.binomtest(n, n).pvalue)


def _bootstrap(figures: np.ndarray, resamples: int) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean of [n], the same at every call."""
    if not resamples:
        return None, None
    from scipy import stats

    result = stats.bootstrap(
        (figures,),
        np.mean,
        confidence_level=CONFIDENCE,
        n_resamples=resamples,
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


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
            f"comparisons need statsmodels, which cannot be imported ({error}): run"
            " `pip install 'rrd_jax[studies]'`"
        ) from error
