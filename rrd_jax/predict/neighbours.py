"""Nearest neighbors of images by the cosine similarity of a network's embeddings."""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation import rows
from rrd_jax.library import Predictions, Predictor
from rrd_jax.predict import writing

FORMATS = ("text", "csv", "jsonl")


class Neighbour(NamedTuple):
    """An image file, and the cosine of its embedding with the query's, in [-1, 1]."""

    file: str
    cosine: float


class QueryResult(NamedTuple):
    """The file of a query, and its neighbors, nearest first."""

    query: str
    neighbours: list[Neighbour]


class _NearestImages:
    """The images nearest to each query among all images added so far.

    Args:
      queries: predictions for the query images.
      count: number of neighbors per query.
    """

    def __init__(self, queries: Predictions, count: int):
        self._files, self._count = queries.files, count
        self._queries = rows.unit(queries.embeddings)
        self._paths = [os.path.realpath(file) for file in queries.files]
        self._cosines = np.zeros((len(self._files), 0), np.float32)
        self._neighbours: list[list[str]] = [[] for _ in self._files]

    def add(self, part: Predictions) -> None:
        """Compares the queries with more images. A query is never its own neighbor."""
        if not len(part):
            return
        cosines = self._queries @ rows.unit(part.embeddings).T
        paths = np.array([os.path.realpath(file) for file in part.files])
        for row, path in zip(cosines, self._paths, strict=True):
            row[paths == path] = -np.inf
        cosines = np.concatenate([self._cosines, cosines], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : self._count]
        for i, (files, columns) in enumerate(zip(self._neighbours, order, strict=True)):
            names = (*files, *part.files)
            self._neighbours[i] = [names[column] for column in columns]
        self._cosines = np.take_along_axis(cosines, order, axis=1)

    def results(self) -> list[QueryResult]:
        """Returns each query with its neighbors."""
        results = []
        columns = zip(self._files, self._neighbours, self._cosines.tolist(), strict=True)
        for query, files, cosines in columns:
            neighbours = [Neighbour(*pair) for pair in zip(files, cosines, strict=True)]
            results.append(QueryResult(query, [n for n in neighbours if n.cosine != -np.inf]))
        return results


def search(
    predictor: Predictor,
    queries: Sequence[str],
    files: Sequence[str],
    count: int,
    batch_size: int,
    on_batch: Callable[[Predictions], None],
) -> list[QueryResult]:
    """Finds the files nearest to each query; unreadable files are skipped.

    Only a few batches of images and embeddings are in memory at once.

    Args:
      predictor: the predictor that computes embeddings.
      queries: image files whose neighbors are searched.
      files: image files among which the neighbors are searched.
      count: number of neighbors per query.
      batch_size: images per call of the network.
      on_batch: called with the predictions of each batch of files.

    Raises:
      InputError: a query cannot be read, or the network has no embedding.
    """
    with contextlib.closing(predictor.batches(queries, batch_size)) as parts:
        query_parts = list(parts)
    for part in query_parts:
        for file, reason in part.unread:
            raise errors.InputError(f"{errors.printable(file)} cannot be used: {reason}")
    if any(part.embeddings is None for part in query_parts):
        raise errors.InputError(
            f"'{predictor.name}' has no embedding, which --neighbours needs; use a network with one"
        )
    searches = [_NearestImages(part, count) for part in query_parts]
    with contextlib.closing(predictor.batches(files, batch_size)) as parts:
        for part in parts:
            on_batch(part)
            for images in searches:
                images.add(part)
    return [result for images in searches for result in images.results()]


def lines(form: str, results: Sequence[QueryResult]) -> Iterator[str]:
    """Yields the lines of the results in one of FORMATS."""
    if form == "csv":
        max_neighbours = max((len(result.neighbours) for result in results), default=0)
        words = (
            f"{word}_{i}" for i in range(1, max_neighbours + 1) for word in ("neighbour", "cosine")
        )
        yield writing.csv_row(["file", *words])
    for query, neighbours in results:
        if form == "text":
            entries = (f"{errors.printable(n.file)} {n.cosine:.4f}" for n in neighbours)
            yield f"{errors.printable(query)}: {', '.join(entries)}\n"
        elif form == "csv":
            pairs = ((n.file, writing.shortest_float(n.cosine)) for n in neighbours)
            yield writing.csv_row([query, *itertools.chain.from_iterable(pairs)])
        else:
            nearest = [
                {"file": n.file, "cosine": writing.shortest_float(n.cosine)} for n in neighbours
            ]
            yield json.dumps({"file": query, "neighbours": nearest}, ensure_ascii=False) + "\n"


def overlap(first: Sequence[QueryResult], second: Sequence[QueryResult]) -> float:
    """Returns the mean share of neighbors that two networks have in common, in [0, 1]."""
    shares = [
        len({n.file for n in a.neighbours} & {n.file for n in b.neighbours}) / len(a.neighbours)
        for a, b in zip(first, second, strict=True)
        if a.neighbours
    ]
    return float(np.mean(shares)) if shares else 0.0
