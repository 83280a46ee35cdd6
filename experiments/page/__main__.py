"""Makes a page of a study or of a run: one file of HTML, with everything in it.

    python -m experiments.page --study=runs/digits_study --output=report.html
    python -m experiments.page --workdir=runs/digits --output=run.html
    python -m experiments.page --study=runs/digits_study --figures=paper

--figures writes figures as PDF, PNG and SVG, and tables as LaTeX and Markdown. A study that has not
ended gives a page of what there is. The exit code is 0 when all was written, 1 for a bad flag, 2
for a folder that is no study or run, 69 where a library is not installed (pip install
'rrd_jax[studies]'), 74 where a file cannot be written.
"""

import functools
import pathlib

from absl import app, flags

from rrd_jax import errors
from rrd_jax.terminal import cli, console

_STUDY = flags.DEFINE_string("study", None, "The --workdir of experiments.study.")
_WORKDIR = flags.DEFINE_string("workdir", None, "A run's, in place of --study.")
_OUTPUT = flags.DEFINE_string("output", None, "The file of HTML to write.")
_FIGURES = flags.DEFINE_string(
    "figures", None, "The folder to write figures and tables for papers into."
)
_MEASURE = flags.DEFINE_bool(
    "measure",
    False,
    "Measures what the study's runs lack, as its workers do; of a run this is done anyway.",
)


def main(argv: list[str]) -> None:
    """Makes the page."""
    del argv
    if (_STUDY.value is None) == (_WORKDIR.value is None):
        cli.stop(1, "name a study with --study=W, or a run with --workdir=W")
    if _OUTPUT.value is None and _FIGURES.value is None:
        cli.stop(1, "name a file with --output=report.html, a folder with --figures=DIR, or both")
    for flag in (_STUDY, _WORKDIR, _OUTPUT, _FIGURES):
        if flag.value == "":
            cli.stop(1, f"--{flag.name} is empty")
    cli.guard(_run, stopped="stopped")


def _run() -> None:
    from experiments.page import html

    if _OUTPUT.value is not None:
        html.check_libraries()
    if _FIGURES.value is not None:
        html.check_libraries("matplotlib")
    if _STUDY.value is not None:
        _of_study(pathlib.Path(_STUDY.value))
    else:
        _of_run(pathlib.Path(_WORKDIR.value))


def _of_study(folder: pathlib.Path) -> None:
    from experiments.page import study
    from experiments.study import records

    record = records.read(folder)
    if _MEASURE.value:
        from experiments.page import measuring

        measuring.of_study(record)
    if _OUTPUT.value is not None:
        _write(study.page(record))
    if _FIGURES.value is not None:
        from experiments.page import papers

        _say_written(papers.of_study(record, pathlib.Path(_FIGURES.value)))


def _of_run(folder: pathlib.Path) -> None:
    from experiments.page import measuring, single

    run = single.read(folder)
    measuring.of_run(folder)
    if _OUTPUT.value is not None:
        _write(single.page(run))
    if _FIGURES.value is not None:
        from experiments.page import papers

        _say_written(papers.of_run(run, pathlib.Path(_FIGURES.value)))


def _write(page: "object") -> None:
    from experiments.page import html

    path = pathlib.Path(_OUTPUT.value)
    text = html.render(page)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.DiskError(
            f"{path} cannot be written ({error.strerror or error}); name another --output"
        ) from error
    console.say(f"{path}: {len(text.encode()) / 1e6:.1f} MB")


def _say_written(paths: list[pathlib.Path]) -> None:
    console.say(f"{_FIGURES.value}: {len(paths)} files")


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(cli.parse_flags))
