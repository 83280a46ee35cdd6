"""Writes a page for a study or a run: a single HTML file that works offline.

    python -m experiments.page --study=runs/digits_study --output=report.html
    python -m experiments.page --workdir=runs/digits --output=run.html
    python -m experiments.page --study=runs/digits_study --figures=paper
    python -m experiments.page --workdir=gs://BUCKET/runs/digits --output=run.html

--figures writes figures as PDF, PNG and SVG, and tables as LaTeX and Markdown. The page of an
unfinished study contains the available results. The exit code is 0 if all files were written, 1 for
an invalid flag, 2 for a folder that is not a study or run, 69 if a library is not installed (pip
install 'rrd_jax[studies]') and 74 if a file cannot be written or a bucket cannot be reached.
"""

import pathlib
from typing import TYPE_CHECKING

from absl import app, flags

from rrd_jax import errors
from rrd_jax.terminal import cli, console, path_flags

if TYPE_CHECKING:
    from experiments.page.elements import Page

_STUDY = path_flags.define_path("study", None, "The --workdir of experiments.study.", bucket=True)
_WORKDIR = path_flags.define_path(
    "workdir", None, "The workdir of a run, instead of --study.", bucket=True
)
_OUTPUT = path_flags.define_path("output", None, "The HTML file to write.")
_FIGURES = path_flags.define_path("figures", None, "The folder for figures and tables for papers.")
_MEASURE = flags.DEFINE_bool(
    "measure", False, "Computes missing measures of a study first; always on for a single run."
)


def main(argv: list[str]) -> None:
    """Writes the page and the files for papers."""
    del argv
    if (_STUDY.value is None) == (_WORKDIR.value is None):
        cli.stop(1, "pass either a study, --study=W, or a run, --workdir=W")
    if _OUTPUT.value is None and _FIGURES.value is None:
        cli.stop(
            1, "no output; pass a file, --output=report.html, a folder, --figures=DIR, or both"
        )
    for flag in (_STUDY, _WORKDIR, _OUTPUT, _FIGURES):
        if flag.value == "":
            cli.stop(1, f"--{flag.name} is empty; pass a path or leave the flag out")
    cli.guard(_run, stopped="stopped")


def _run() -> None:
    from experiments.page import html, papers

    html.check_libraries()
    page = _study_page() if _STUDY.value else _run_page()
    if _OUTPUT.value is not None:
        path = pathlib.Path(_OUTPUT.value)
        text = html.render(page)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise errors.DiskError(
                f"{path} cannot be written ({error.strerror or error}); pass another --output"
            ) from error
        console.say(f"{path}: {len(text.encode()) / 1e6:.1f} MB")
    if _FIGURES.value is not None:
        paths = papers.write(page, pathlib.Path(_FIGURES.value))
        console.say(f"{_FIGURES.value}: {len(paths)} files")


def _study_page() -> "Page":
    from experiments import measures
    from experiments.page import bucket_copies, study_page
    from experiments.study import records

    location, folder = bucket_copies.localize(_STUDY.value, records.PLAN)
    record = records.read(folder)
    if _MEASURE.value:
        for grid in record.grids:
            for run in grid.runs:
                if run.finished:
                    measures.measure_missing(
                        run.folder,
                        grid.measures,
                        location / run.folder.relative_to(folder).as_posix(),
                    )
    return study_page.page(record)


def _run_page() -> "Page":
    from experiments import measures
    from experiments.page import bucket_copies, run_page

    location, folder = bucket_copies.localize(_WORKDIR.value, "config.json")
    run = run_page.read(folder, location)
    measures.measure_missing(run.folder, measures.MEASURES, location)
    return run_page.page(run)


if __name__ == "__main__":
    app.run(main, flags_parser=cli.parse_flags)
