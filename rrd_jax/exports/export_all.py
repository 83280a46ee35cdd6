"""Export of a network in several formats, which continues after a format has failed."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from rrd_jax import errors
from rrd_jax.exports import interface, writer
from rrd_jax.exports.interface import Format, Options
from rrd_jax.exports.verification import Trial
from rrd_jax.exports.writer import Written
from rrd_jax.terminal import console, runtime_errors, tables

# Errors that skip a format without failing the export: another attempt would fail too.
_SKIPPED = (errors.UnavailableError, errors.UnfitError)


class Outcome(NamedTuple):
    """The result of the export to one format.

    Attributes:
      fmt: the format.
      written: the file; None if the file was not written.
      error: the reason why the file was not written; None for a written file.
    """

    fmt: Format
    written: Written | None = None
    error: Exception | None = None


def missing(fmt: Format) -> errors.UnavailableError | None:
    """Returns the error for a missing library of a format; None if all libraries are installed."""
    try:
        interface.require(fmt.name, fmt.extra, fmt.modules)
    except errors.UnavailableError as error:
        return error
    return None


def write(
    trial: Trial,
    targets: Sequence[tuple[Format, pathlib.Path]],
    options: Options,
    *,
    overwrite: bool = False,
) -> list[Outcome]:
    """Writes a network in several formats, and prints one line per format.

    Args:
      trial: the network, and the images on which the files are verified.
      targets: formats, with the paths of their files.
      options: options; a format ignores unsupported options with a note.
      overwrite: True to replace earlier exports.

    Raises:
      DiskError: the disk is full.
    """
    outcomes = []
    for fmt, path in targets:
        console.progress("export", [f"writing and verifying {fmt.name}"])
        outcome = _write(trial, fmt, path, options, overwrite=overwrite)
        ignored = writer.unsupported_options(fmt, options)
        if ignored and outcome.written:
            names = ", ".join(map(writer.flag, ignored))
            console.note(f"format '{fmt.name}' ignores {names}, which it does not support")
        if outcome.written:
            console.say(str(outcome.written))
        elif len(targets) > 1 and not isinstance(outcome.error, _SKIPPED):
            console.warn(runtime_errors.first_line(outcome.error) or type(outcome.error).__name__)
        outcomes.append(outcome)
    return outcomes


def _write(
    trial: Trial, fmt: Format, path: pathlib.Path, options: Options, *, overwrite: bool
) -> Outcome:
    if error := missing(fmt):
        return Outcome(fmt, error=error)
    try:
        supported = writer.supported_options(fmt, options)
        return Outcome(fmt, writer.write(trial, fmt, path, supported, overwrite=overwrite))
    except errors.DiskError:
        raise
    # `report` raises unexpected errors after all other formats have been written.
    except Exception as error:
        return Outcome(fmt, error=error)


def report(outcomes: Sequence[Outcome]) -> None:
    """Prints a table of several formats, and the reasons for skipped formats.

    Raises:
      InputError: a format was not written because of an error, or no format fits the network.
      UnavailableError: the libraries of all formats are missing.
    """
    failed = [outcome.error for outcome in outcomes if outcome.error]
    skipped = [error for error in failed if isinstance(error, _SKIPPED)]
    if len(outcomes) > 1:
        console.print_table(*table(outcomes), before="\n")
        for error in skipped:
            console.note(f"skipped: {error}")
    bugs = [error for error in failed if not isinstance(error, errors.InputError)]
    unwritten = [error for error in failed if error not in skipped]
    if bugs or (failed and len(outcomes) == 1):
        raise [*bugs, *failed][0]
    if unwritten:
        raise errors.InputError(
            f"{len(unwritten)} of {len(outcomes)} formats not written, for the reasons above"
        )
    if len(skipped) < len(outcomes):
        return
    if any(isinstance(error, errors.UnfitError) for error in skipped):
        raise errors.InputError("no format written, for the reasons above")
    raise errors.UnavailableError(
        "no format written: the libraries are not installed; the notes above have the commands"
    )


def table(outcomes: Sequence[Outcome]) -> tuple[list[str], list[list[str]]]:
    """Returns the header and the rows of a table, one row per format."""
    columns = ["logit error", "same top-1", "top-1"]
    written = [outcome.written.comparison for outcome in outcomes if outcome.written]
    if any(compared and compared.agreement is None for compared in written):
        columns = ["embedding error", "mean cosine"]
    header = ["format", "file", "size", "verified with", *columns]
    return header, [_row(outcome, len(columns)) for outcome in outcomes]


def _row(outcome: Outcome, num_columns: int) -> list[str]:
    if not outcome.written:
        reasons = {errors.UnavailableError: "not installed", errors.UnfitError: "not supported"}
        reason = reasons.get(type(outcome.error), "not written")
        return [outcome.fmt.name, reason, *["-"] * (2 + num_columns)]
    written = outcome.written
    row = [written.format, str(written.path), tables.format_bytes(written.bytes)]
    compared = written.comparison
    if compared is None:
        return [*row, "structure only", *["-"] * num_columns]
    if compared.agreement is None:
        return [*row, written.runtime, f"{compared.difference:.1e}", f"{compared.cosine:.6f}"]
    top1 = "-" if compared.top1 is None else f"{compared.top1:.2f}"
    values = [f"{compared.difference:.1e}", f"{compared.agreement:.2f}", top1]
    return [*row, written.runtime, *values]
