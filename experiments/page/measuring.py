"""Measures what runs lack, before a page shows it; imports JAX only then."""

import pathlib
from collections.abc import Iterable

from experiments import measures
from experiments.study.records import Record
from rrd_jax import errors
from rrd_jax.terminal import console


def of_run(folder: pathlib.Path, names: Iterable[str] = tuple(measures.MEASURES)) -> None:
    """Measures what is not there yet; what cannot be measured is said, and left out.

    Args:
      folder: of a run.
      names: of measures.
    """
    missing = [name for name in names if _is_missing(folder, name)]
    if not missing:
        return
    console.progress("page", [f"{folder.name}: {', '.join(missing)}"])
    try:
        subject = measures.of_run(folder)
    except errors.InputError as error:
        console.note(f"{folder} is not measured: {error}")
        return
    for name in missing:
        if name in measures.NEED_TEACHER and subject.teacher is None:
            continue
        try:
            measures.measure(folder, name, subject)
        except errors.DiskError:
            raise
        except errors.InputError as error:
            console.note(f"{name} of {folder} is not measured: {error}")


def of_study(record: Record) -> None:
    """Measures finished runs, of each grid what it asks for."""
    for grid in record.grids:
        for entry in grid.entries:
            if entry.finished:
                of_run(entry.folder, grid.measures)


def _is_missing(folder: pathlib.Path, name: str) -> bool:
    try:
        return measures.read(folder, name) is None
    except errors.InputError as error:
        console.warn(str(error))
        return True
