"""What the statistics say, in sentences that claim no more than they show."""

import math
from collections.abc import Callable, Mapping, Sequence

from experiments.study.comparisons import Difference
from experiments.study.levels import ALPHA, Published, Summary
from experiments.study.ranking import Ranking


def sentence(
    level: str,
    baseline: str,
    difference: Difference,
    *,
    failed: Mapping[str, Sequence[int]] | None = None,
) -> str:
    """A difference in words, without a full stop.

    Args:
      level: what it is called.
      baseline: what it is compared with.
      difference: level less baseline.
      failed: seeds that failed, by level or baseline; those of others are left out.

    Examples:
      >>> from experiments.study import statistics
      >>> ce = {0: 91.4, 1: 91.5, 2: 91.6}
      >>> found = statistics.differences({"ce": ce, "rrd": {0: 92.0, 1: 92.3, 2: 92.3}}, "ce")
      >>> sentence("RRD", "CE", found["rrd"])
      'RRD is 0.70 points better than CE (95 % interval 0.45 to 0.95, 3 seeds, p = 0.0067)'
    """
    words = _difference(level, baseline, difference)
    return "; ".join([words, *_failures((level, baseline), failed or {})])


def _difference(level: str, baseline: str, difference: Difference) -> str:
    if difference.mean is None:
        return f"{level} and {baseline} cannot be compared: no seed finished with both"
    number = _numbers(difference.mean, difference.low, difference.high)
    change = f"{number(difference.mean, '+')} points"
    if difference.p is None:
        return (
            f"{level} less {baseline} is {change} on one seed, which tells nothing about noise:"
            " no verdict"
        )
    if difference.std == 0:
        return _without_spread(level, baseline, difference, change)
    interval = f"{number(difference.low)} to {number(difference.high)}"
    if difference.verdict == "not distinguishable":
        return (
            f"{level} and {baseline} are not distinguishable: {change}, 95 % interval {interval},"
            f" n = {difference.n}, {_p(difference)}"
        )
    return (
        f"{level} is {number(abs(difference.mean))} points {difference.verdict} than {baseline}"
        f" (95 % interval {interval}, {difference.n} seeds, {_p(difference)})"
    )


def _without_spread(level: str, baseline: str, difference: Difference, change: str) -> str:
    if not difference.mean:
        return (
            f"{level} and {baseline} are not distinguishable: the same figure on each of"
            f" {difference.n} seeds"
        )
    # An interval without width would look like certainty.
    basis = f"{change} on each of {difference.n} seeds, {_p(difference)} by the sign test"
    if difference.verdict == "not distinguishable":
        return (
            f"{level} and {baseline} are not distinguishable: {basis}; there is no spread to"
            " measure noise by"
        )
    return f"{level} is {difference.verdict} than {baseline} ({basis})"


def _p(difference: Difference) -> str:
    """With p alone beside it where only Holm's correction decides."""
    if difference.comparisons < 2:
        return _probability(difference.p)
    corrected = f"{_probability(difference.p_adjusted)} after Holm"
    if difference.p < ALPHA <= difference.p_adjusted:
        return (
            f"{corrected} over {difference.comparisons} comparisons"
            f" ({_probability(difference.p)} alone)"
        )
    return corrected


def _failures(names: Sequence[str], failed: Mapping[str, Sequence[int]]) -> list[str]:
    lines = []
    for name in names:
        seeds = [str(seed) for seed in failed.get(name, ())]
        if len(seeds) == 1:
            lines.append(f"seed {seeds[0]} failed for {name}")
        elif seeds:
            lines.append(f"seeds {', '.join(seeds[:-1])} and {seeds[-1]} failed for {name}")
    return lines


def power_note(difference: Difference) -> str:
    """How large a difference would have to be to be seen; "" where that is not known.

    It belongs beside a difference that is not distinguishable.
    """
    if not difference.detectable:
        return ""
    number = _numbers(difference.detectable)
    corrected = ""
    if difference.comparisons > 1:
        corrected = f" among {difference.comparisons} comparisons"
    return (
        f"with this spread, {difference.n} seeds show a true difference of"
        f" {number(difference.detectable)} points in 4 of 5 studies{corrected}, and smaller ones"
        " more rarely"
    )


def level_sentence(level: str, summary: Summary) -> str:
    """The figures of a level in words."""
    if summary.mean is None:
        return f"{level}: no seed finished"
    mean = _numbers(summary.mean)(summary.mean)
    if summary.std is None:
        return f"{level}: {mean} (n = 1)"
    number = _numbers(summary.std)
    interval = f"{number(summary.low)} to {number(summary.high)}"
    if not summary.std:
        return f"{level}: {mean} on each of {summary.n} seeds"
    return (
        f"{level}: {number(summary.mean)} +- {number(summary.std)}"
        f" (n = {summary.n}, 95 % interval {interval})"
    )


def published_sentence(level: str, found: Published) -> str:
    """Our figure beside a published one in words."""
    if found.difference is None:
        return f"{level}: no seed finished, to compare with the published {found.published:g}"
    number = _numbers(found.difference)
    words = (
        f"{level} is {number(found.difference, '+')} points from the published {found.published:g}"
    )
    if found.standard_errors is None:
        return f"{words} (n = {found.n}: our own error is not known, nor is the published one's)"
    return (
        f"{words}, {abs(found.standard_errors):.1f} standard errors of ours (n = {found.n}; the"
        " published figure's own error is not known)"
    )


def ranking_sentence(ranking: Ranking, block: str = "block") -> str:
    """Ranks in words.

    Args:
      ranking: of levels.
      block: what a block is called, such as "pair".
    """
    listed = ", ".join(f"{name} {rank:.2f}" for name, rank in ranking.mean_ranks.items())
    if ranking.reason:
        return "; ".join(filter(None, [f"no test of ranks: {ranking.reason}", listed]))
    words = f"mean ranks over {len(ranking.blocks)} {block}s: {listed}"
    if ranking.p >= ALPHA:
        return f"{words}; Friedman's test tells none apart ({_probability(ranking.p)})"
    groups = "; ".join(" and ".join(group) for group in ranking.groups) or "none"
    return (
        f"{words} (Friedman {_probability(ranking.p)}; told apart from"
        f" {ranking.critical_difference:.2f} on, by Nemenyi; not told apart: {groups})"
    )


def _probability(p: float) -> str:
    if p < 0.001:
        return "p < 0.001"
    rounded = f"{p:.2g}"
    if float(rounded) == ALPHA and p != ALPHA:  # the side of it is what matters
        return f"p {'<' if p < ALPHA else '>'} {ALPHA:g}"
    return f"p = {rounded}"


def _numbers(*values: float | None) -> Callable[..., str]:
    """Writes numbers with two decimals, or as many as the largest of these values needs."""
    largest = max(abs(value) for value in values if value is not None)
    decimals = min(6, max(2, 1 - math.floor(math.log10(largest)))) if largest else 2

    def number(value: float, sign: str = "") -> str:
        text = f"{value:{sign}.{decimals}f}"
        return text.replace("-", "") if not float(text) else text  # no -0.00

    return number
