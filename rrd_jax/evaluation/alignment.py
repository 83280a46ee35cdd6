"""How alike two sets of embeddings of the same images are, whatever their widths."""

import numpy as np

from rrd_jax.evaluation import rows

IMAGES = 1_000  # of which all pairs are compared


def linear_cka(one: np.ndarray, other: np.ndarray) -> float:
    """Linear centred kernel alignment, in [0, 1]: ||Y'X||^2 / (||X'X|| ||Y'Y||) of centred columns.

    1 for embeddings that differ by a rotation, a shift and a scale; NaN where one is constant.

    Args:
      one: X, [N, D].
      other: Y, [N, E].

    References:
      arXiv 1905.00414.
    """
    pairs = ((other, one), (one, one), (other, other))
    cross, *own = (np.linalg.norm(rows.gram(*pair, centred=True)) for pair in pairs)
    with np.errstate(invalid="ignore"):
        return float(cross**2 / np.prod(own))


def rank_correlation(one: np.ndarray, other: np.ndarray, most: int = IMAGES) -> float:
    """Spearman's, in [-1, 1], of the cosine similarities of pairs of rows; NaN where all are equal.

    Args:
      one: [N, D].
      other: [N, E].
      most: rows. Of more, it is of all pairs of so many that are drawn, the same ones each time.
    """
    import scipy.stats

    some = rows.places(len(one), most)
    upper = np.triu_indices(len(some), 1)
    directions = (rows.unit(embeddings[some].astype(np.float64)) for embeddings in (one, other))
    similarities = [(units @ units.T)[upper] for units in directions]
    if any(np.ptp(values) == 0 for values in similarities):
        return float("nan")
    return float(scipy.stats.spearmanr(*similarities).statistic)
