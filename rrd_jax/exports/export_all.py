"""Export of a network in several formats; a format that fails does not stop the others."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.exports import interface, writer
from rrd_jax.exports.interface import Format, Options
from rrd_jax.exports.verification import Trial
from rrd_jax.exports.writer import Written
from rrd_jax.terminal import console, runtime_errors, tables

# Formats with these errors are left out: a second attempt would fail too.
_LEFT_OUT = (errors.UnavailableError, errors.UnfitError)


class Outcome(NamedTuple):
    """The result for a format.

    Attributes:
      form: the format.
      written: the file; None if there is none.
      error: the reason why there is no file.
    """

    form: Format
    written: Written | None = None
    error: Exception | None = None


def missing(form: Format) -> errors.UnavailableError | None:
    """Returns the error for libraries of a format that are not installed."""
    try:
        interface.require(form.name, form.extra, form.modules)
    except errors.UnavailableError as error:
        return error
    return None


def write(
    trial: Trial,
    places: Sequence[tuple[Format, pathlib.Path]],
    options: Options,
    *,
    overwrite: bool = False,
) -> list[Outcome]:
    """Writes a network in several formats, and logs a line for each.

    Args:
      trial: the network, and images to compare on.
      places: formats, with the paths of their files.
      options: a format ignores those that it does not support, with a note.
      overwrite: whether to replace earlier exports.

    Raises:
      DiskError: the disk is full.
    """
    outcomes = []
    for form, place in places:
        console.progress("export", [f"{form.name} is written and read back"])
        outcome = _write(trial, form, place, options, overwrite=overwrite)
        left_out = writer.unknown_options(form, options)
        if left_out and outcome.written:
            names = ", ".join(map(writer.flag, left_out))
            console.note(f"format '{form.name}' does not support {names}, which is ignored")
        if outcome.written:
            console.say(str(outcome.written))
        elif len(places) > 1 and not isinstance(outcome.error, _LEFT_OUT):
            console.warn(runtime_errors.first_line(outcome.error) or type(outcome.error).__name__)
        outcomes.append(outcome)
    return outcomes


def _write(
    trial: Trial, form: Format, place: pathlib.Path, options: Options, *, overwrite: bool
) -> Outcome:
    if error := missing(form):
        return Outcome(form, error=error)
    try:
        known = writer.known_options(form, options)
        return Outcome(form, writer.write(trial, form, place, known, overwrite=overwrite))
    except errors.DiskError:
        raise
    except Exception as error:  # `report` raises bugs after the other formats are written.
        return Outcome(form, error=error)


def report(outcomes: Sequence[Outcome]) -> None:
    """Prints a table of several formats, and the reasons why some are left out.

    Raises:
      InputError: a format was refused, or none can hold the network.
      UnavailableError: no library of the formats is installed.
    """
    failed = [outcome.error for outcome in outcomes if outcome.error]
    left_out = [error for error in failed if isinstance(error, _LEFT_OUT)]
    if len(outcomes) > 1:
        console.print_table(*table(outcomes), before="\n")
        for error in left_out:
            console.note(f"left out: {error}")
    bugs = [error for error in failed if not isinstance(error, errors.InputError)]
    refused = [error for error in failed if error not in left_out]
    if bugs or (failed and len(outcomes) == 1):
        raise [*bugs, *failed][0]
    if refused:
        raise errors.InputError(
            f"{len(refused)} of {len(outcomes)} formats are not written, see above"
        )
    if len(left_out) < len(outcomes):
        return
    if any(isinstance(error, errors.UnfitError) for error in left_out):
        raise errors.InputError("none of these formats is written, see above")
    raise errors.UnavailableError("no library of these formats is installed, see above")


def table(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a table, one row per format."""
    figures = ["logits off by", "same top-1", "top-1"]
    written = [outcome.written.comparison for outcome in outcomes if outcome.written]
    if any(compared and compared.agreement is None for compared in written):
        figures = ["embeddings off by", "mean cosine"]
    header = ["format", "file", "size", "read back by", *figures]
    return header, [_row(outcome, len(figures)) for outcome in outcomes]


def _row(outcome: Outcome, figures: int) -> list[str]:
    if not outcome.written:
        reasons = {errors.UnavailableError: "not installed", errors.UnfitError: "not possible"}
        reason = reasons.get(type(outcome.error), "not written")
        return [outcome.form.name, reason, *["-"] * (2 + figures)]
    written = outcome.written
    row = [written.format, str(written.path), tables.bytes_shown(written.bytes)]
    compared = written.comparison
    if compared is None:
        return [*row, "not run here", *["-"] * figures]
    if compared.agreement is None:
        return [*row, written.runtime, f"{compared.difference:.1e}", f"{compared.cosine:.6f}"]
    top1 = "-" if compared.top1 is None else f"{compared.top1:.2f}"
    shown = [f"{compared.difference:.1e}", f"{compared.agreement:.2f}", top1]
    return [*row, written.runtime, *shown]
