"""Figures by matplotlib, and tables as LaTeX and Markdown, for papers."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from experiments.page import paper_figures, results, single, study, tables
from experiments.page.parts import Folded, Names, Page, Table
from experiments.study.records import Record
from rrd_jax import errors
from rrd_jax.run_folder import atomic_write

FORMATS = ("pdf", "png", "svg")
_STYLE = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,  # text that stays text; journals refuse others
    "svg.hashsalt": "rrd_jax",  # the same file from the same numbers
}

Drawing = tuple[str, Callable[[], Any]]  # a file's name, and what draws it


def of_study(record: Record, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes all figures and tables of a study.

    Args:
      record: of the study.
      folder: to write into; it is made.

    Returns:
      The files.

    Raises:
      DiskError: it cannot be written.
    """
    drawings = [
        drawing
        for grid in record.grids
        if (of := results.of(grid)).has_figures
        for drawing in paper_figures.of_grid(of)
    ]
    drawings += [
        (study.slug(f"theory {name}"), lambda curves=curves: paper_figures.calculation(curves))
        for name, curves in record.calculations.items()
    ]
    return _write(drawings, study.page(record), folder)


def of_run(run: single.Run, folder: pathlib.Path) -> list[pathlib.Path]:
    """Writes the figures and tables of a run; as `of_study`."""
    return _write(list(paper_figures.of_run(run)), single.page(run), folder)


def _write(drawings: list[Drawing], page: Page, folder: pathlib.Path) -> list[pathlib.Path]:
    import matplotlib

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise errors.DiskError(
            f"{folder} cannot be made ({error.strerror or error}); name another --figures"
        ) from error
    paths, names = [], Names()
    with matplotlib.rc_context(_STYLE):
        for name, draw in drawings:
            figure, free = draw(), names(name)
            for form in FORMATS:
                path = folder / f"{free}.{form}"
                _save(figure, path)
                paths.append(path)
    for table in _tables(page):
        for form, text in (("md", tables.markdown(table)), ("tex", tables.latex(table))):
            path = folder / f"{table.name}.{form}"
            atomic_write.write_text(path, text)
            paths.append(path)
    return paths


def _save(figure: Any, path: pathlib.Path) -> None:
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
    try:
        figure.savefig(path, metadata=metadata[path.suffix[1:]])
    except OSError as error:
        raise errors.DiskError(
            f"{path} cannot be written ({error.strerror or error}); name another --figures"
        ) from error


def _tables(page: Page) -> Iterator[Table]:
    for section in page.sections:
        for part in section.parts:
            if isinstance(part, Table):
                yield part
            elif isinstance(part, Folded):
                yield from part.tables
