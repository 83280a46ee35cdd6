"""Whether embeddings differ from image to image, or have collapsed."""

import numpy as np

from rrd_jax.evaluation import rows


def effective_rank(embeddings: np.ndarray) -> float:
    """In how many dimensions embeddings lie: exp of the entropy of the shares of singular values.

        p_k = s_k / sum_j s_j,  rank = exp(- sum_k p_k ln p_k)

    From 1, of embeddings that are all in one direction, to min(N, D). As in arXiv 2210.02885,
    columns are not centred, so that a constant embedding has rank 1. NaN where all are zero.

    Args:
      embeddings: [N, D].

    References:
      Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007.
      arXiv 2210.02885.
    """
    count, width = embeddings.shape
    if width > count:  # the same values, of a smaller matrix
        embeddings = embeddings.T
    squares = np.linalg.eigvalsh(rows.gram(embeddings, embeddings))
    noise = max(count, width) * np.finfo(np.float64).eps * squares.max()
    values = np.sqrt(squares[squares > noise])
    if not values.size:
        return float("nan")
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def deviation(embeddings: np.ndarray) -> float:
    """Mean deviation over the images of each dimension of embeddings of length 1, times sqrt(D).

    0 for embeddings that are all the same, 1 for those that point everywhere alike: the measure of
    collapse of arXiv 2011.10566, made independent of the width.

    Args:
      embeddings: [N, D].
    """
    count, width = embeddings.shape
    mean, square = np.zeros(width), np.zeros(width)
    for part in rows.chunks(count, width):
        mean += rows.unit(embeddings[part].astype(np.float64)).sum(axis=0) / count
    for part in rows.chunks(count, width):
        directions = rows.unit(embeddings[part].astype(np.float64))
        square += ((directions - mean) ** 2).sum(axis=0) / count
    return float(np.sqrt(square).mean() * np.sqrt(width))
