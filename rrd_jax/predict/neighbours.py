"""Which images are nearest to others, by the cosine of a network's embeddings."""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from rrd_jax import errors
from rrd_jax.evaluation import rows
from rrd_jax.library import Predictions, Predictor

FORMATS = ("text", "csv", "jsonl")


class Neighbour(NamedTuple):
    """An image, and the cosine of its embedding with a query's, in [-1, 1]."""

    file: str
    cosine: float


class Found(NamedTuple):
    """A query's file, and its neighbours, the nearest first."""

    query: str
    neighbours: list[Neighbour]


class _Nearest:
    """The nearest images of each query, among those that were added.

    Args:
      queries: what a network says of them.
      count: how many neighbours each has at most.
    """

    def __init__(self, queries: Predictions, count: int):
        self._files, self._count = queries.files, count
        self._queries = rows.unit(queries.embeddings)
        self._places = [os.path.realpath(file) for file in queries.files]
        self._cosines = np.zeros((len(self._files), 0), np.float32)
        self._neighbours: list[list[str]] = [[] for _ in self._files]

    def add(self, part: Predictions) -> None:
        """Compares more images; no query is its own neighbour."""
        if not len(part):
            return
        cosines = self._queries @ rows.unit(part.embeddings).T
        places = np.array([os.path.realpath(file) for file in part.files])
        for row, place in zip(cosines, self._places, strict=True):
            row[places == place] = -np.inf
        cosines = np.concatenate([self._cosines, cosines], axis=1)
        order = np.argsort(-cosines, axis=1, kind="stable")[:, : self._count]
        for i, (files, columns) in enumerate(zip(self._neighbours, order, strict=True)):
            names = (*files, *part.files)
            self._neighbours[i] = [names[column] for column in columns]
        self._cosines = np.take_along_axis(cosines, order, axis=1)

    def found(self) -> list[Found]:
        """Each query with its neighbours."""
        all_of_them = zip(self._files, self._neighbours, self._cosines.tolist(), strict=True)
        found = []
        for query, files, cosines in all_of_them:
            pairs = zip(files, cosines, strict=True)
            found.append(Found(query, [Neighbour(*pair) for pair in pairs if pair[1] != -np.inf]))
        return found


def search(
    predictor: Predictor,
    queries: Sequence[str],
    files: Sequence[str],
    count: int,
    batch_size: int,
    seen: Callable[[Predictions], None],
) -> list[Found]:
    """The nearest files of each query; those that cannot be read are left out.

    No more than a few batches of images and embeddings are in memory, whatever their number.

    Args:
      predictor: whose embeddings are compared.
      queries: image files.
      files: image files.
      count: neighbours of each query.
      batch_size: images at once.
      seen: called with what is known of each part of the files.

    Raises:
      InputError: a query cannot be read, or the network has no embedding.
    """
    with contextlib.closing(predictor.batches(queries, batch_size)) as parts:
        asked = list(parts)
    for part in asked:
        for file, reason in part.unread:
            raise errors.InputError(f"{errors.printable(file)} cannot be used: {reason}")
    if any(part.embeddings is None for part in asked):
        raise errors.InputError(
            f"'{predictor.name}' has no embedding, which neighbours are found by"
        )
    nearest = [_Nearest(part, count) for part in asked]
    with contextlib.closing(predictor.batches(files, batch_size)) as parts:
        for part in parts:
            seen(part)
            for some in nearest:
                some.add(part)
    return [found for some in nearest for found in some.found()]


def lines(form: str, found: Sequence[Found]) -> Iterator[str]:
    """What is written of queries, in one of FORMATS."""
    if form == "csv":
        most = max((len(one.neighbours) for one in found), default=0)
        words = (f"{word}_{i}" for i in range(1, most + 1) for word in ("neighbour", "cosine"))
        yield _row(["file", *words])
    for query, neighbours in found:
        if form == "text":
            shown = (f"{errors.printable(n.file)} {n.cosine:.4f}" for n in neighbours)
            yield f"{errors.printable(query)}: {', '.join(shown)}\n"
        elif form == "csv":
            yield _row([query, *(cell for n in neighbours for cell in (n.file, _short(n.cosine)))])
        else:
            near = [{"file": n.file, "cosine": _short(n.cosine)} for n in neighbours]
            yield json.dumps({"file": query, "neighbours": near}, ensure_ascii=False) + "\n"


def _row(cells: Sequence[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _short(value: float) -> float:
    return float(str(np.float32(value)))


def in_common(one: Sequence[Found], other: Sequence[Found]) -> float:
    """Of each query's neighbours the share that two networks agree on, in [0, 1], on average."""
    shares = [
        len({n.file for n in a.neighbours} & {n.file for n in b.neighbours}) / len(a.neighbours)
        for a, b in zip(one, other, strict=True)
        if a.neighbours
    ]
    return float(np.mean(shares)) if shares else 0.0
