"""Statistics of studies: what levels differ by, whether that is more than noise, and in words.

    levels = {"ce": {0: 91.4, 1: 91.5, 2: 91.5}, "rrd": {0: 92.1, 1: 92.0, 2: 92.2}}
    found = statistics.differences(levels, baseline="ce")
    print(statistics.sentence("rrd", "ce", found["rrd"]))

A level is one choice of a factor, such as a method. Its figures are in per cent, more is better,
and each belongs to a seed. A level is compared with another over the seeds that both have, pair by
pair, since a seed decides on initial weights and batches. Nothing here reads or writes files.
"""

from experiments.study.comparisons import (
    Difference,
    detectable_difference,
    differences,
    pairwise,
)
from experiments.study.levels import (
    ALPHA,
    Published,
    Seeded,
    Summary,
    against_published,
    summarize,
)
from experiments.study.ranking import Ranking, ranks
from experiments.study.words import (
    level_sentence,
    power_note,
    published_sentence,
    ranking_sentence,
    sentence,
)

__all__ = [
    "ALPHA",
    "Difference",
    "Published",
    "Ranking",
    "Seeded",
    "Summary",
    "against_published",
    "detectable_difference",
    "differences",
    "level_sentence",
    "pairwise",
    "power_note",
    "published_sentence",
    "ranking_sentence",
    "ranks",
    "sentence",
    "summarize",
]
