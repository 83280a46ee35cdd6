"""Ranks of levels over blocks, and which of them are told apart (Demsar, JMLR 7, 2006)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.study.levels import ALPHA, check_figure


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The levels in the order of their mean ranks; 1 is best.

    Attributes:
      mean_ranks: by level, best first; levels with the same figure in a block share their ranks.
      blocks: the blocks that count: those that have all levels.
      left_out: blocks that lack a level, with the levels that they lack.
      statistic: Friedman's chi-square, corrected for ties; None where there is no test.
      p: of it, by its chi-square distribution, which is rough for few blocks and small differences
        between levels.
      critical_difference: of two mean ranks, by Nemenyi at 0.05 over all pairs of levels.
      groups: levels that are not told apart, best first: each group that is not within another.
        All levels are one group where Friedman's test finds no difference among them.
      reason: why there is no test; "" where there is one.
    """

    mean_ranks: Mapping[str, float]
    blocks: tuple[str, ...]
    left_out: Mapping[str, tuple[str, ...]]
    statistic: float | None
    p: float | None
    critical_difference: float | None
    groups: tuple[tuple[str, ...], ...]
    reason: str = ""


def ranks(blocks: Mapping[str, Mapping[str, float]]) -> Ranking:
    """Mean ranks, Friedman's test, and Nemenyi's critical difference.

    The test needs three levels, in two blocks that have all of them. A block is what the levels are
    compared within, such as a pair of networks; its figure may be the mean over seeds.

    Args:
      blocks: block -> level -> figure, of which more is better.

    Raises:
      InputError: a figure is no finite number.
    """
    for block, figures in blocks.items():
        for level, figure in figures.items():
            check_figure(figure, f"'{level}' in block '{block}'", "level")
    levels = list(dict.fromkeys(level for figures in blocks.values() for level in figures))
    complete = {block: figures for block, figures in blocks.items() if len(figures) == len(levels)}
    left_out = {
        block: tuple(level for level in levels if level not in figures)
        for block, figures in blocks.items()
        if block not in complete
    }
    if not complete:
        reason = "no block has all levels" if blocks else "there are no blocks"
        return Ranking({}, (), left_out, None, None, None, (), reason)
    rows = [[figures[level] for level in levels] for figures in complete.values()]
    table = np.array(rows, np.float64)
    means = _mean_ranks(table)
    order = np.argsort(means, kind="stable")
    known = {
        "mean_ranks": {levels[i]: float(means[i]) for i in order},
        "blocks": tuple(complete),
        "left_out": left_out,
    }
    reason = _why_not(len(levels), len(complete))
    if reason:
        return Ranking(
            **known, statistic=None, p=None, critical_difference=None, groups=(), reason=reason
        )
    statistic, p = _friedman(table)
    critical = critical_difference(len(levels), len(complete))
    groups = (tuple(known["mean_ranks"]),)
    if p < ALPHA:
        groups = _groups(known["mean_ranks"], critical)
    return Ranking(**known, statistic=statistic, p=p, critical_difference=critical, groups=groups)


def critical_difference(levels: int, blocks: int, alpha: float = ALPHA) -> float:
    """How far two mean ranks must be apart by Nemenyi's test: q sqrt(k (k + 1) / (6 N)).

    Args:
      levels: their number k.
      blocks: their number N.
      alpha: of the whole family of pairs.
    """
    from scipy import stats

    q = stats.studentized_range.ppf(1 - alpha, levels, math.inf) / math.sqrt(2)
    return float(q * math.sqrt(levels * (levels + 1) / (6 * blocks)))


def _mean_ranks(table: np.ndarray) -> np.ndarray:
    """[levels] of figures [blocks, levels]."""
    from scipy import stats

    return stats.rankdata(-table, axis=1).mean(0)


def _why_not(levels: int, blocks: int) -> str:
    if levels < 3:
        return f"ranks are tested for three levels or more, and there are {levels}"
    if blocks < 2:
        return "ranks are tested over two blocks or more, and one has all levels"
    return ""


def _friedman(table: np.ndarray) -> tuple[float, float]:
    """Statistic and p; 0 and 1 where all levels are equal in every block."""
    from scipy import stats

    if not np.ptp(table, axis=1).any():
        return 0.0, 1.0
    result = stats.friedmanchisquare(*table.T)
    return float(result.statistic), float(result.pvalue)


def _groups(mean_ranks: Mapping[str, float], critical: float) -> tuple[tuple[str, ...], ...]:
    """Runs of levels within less than the critical difference, none of them within another."""
    names = list(mean_ranks)
    groups: list[Sequence[str]] = []
    end = 0
    for first, name in enumerate(names):
        near = [other for other in names[first:] if mean_ranks[other] - mean_ranks[name] < critical]
        if len(near) > 1 and first + len(near) > end:
            end = first + len(near)
            groups.append(tuple(near))
    return tuple(groups)
