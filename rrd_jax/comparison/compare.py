"""The report of `rrd_jax.export --report`: measures a student beside its teachers."""

import dataclasses
import pathlib
import platform
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors, exports
from rrd_jax.comparison import (
    compared_networks,
    latency,
    measurements,
    report_figure,
    report_tables,
)
from rrd_jax.comparison.compared_networks import ComparedNetwork
from rrd_jax.comparison.latency import File, Latency
from rrd_jax.comparison.measurements import Measurements
from rrd_jax.comparison.report_tables import Report
from rrd_jax.exports import Images, Options, sample_images, writer
from rrd_jax.run_folder import atomic_write
from rrd_jax.terminal import console, runtime_errors
from rrd_jax.weights import files

_IMAGES = 500  # To compare files on, and for accuracies that no checkpoint holds.
_SUM = "teachers"  # The role of several teachers as one.


class FileKind(NamedTuple):
    """A kind of file that the report writes.

    Attributes:
      format: its name.
      runtime: the column of the table whose latency is measured; "" for no measurement.
      quantize: as in Options.
      size_of: "float32" or "int8" if the size of the file is reported, else "".
    """

    format: str
    runtime: str
    quantize: str = ""
    size_of: str = ""


FILE_KINDS = (
    FileKind("safetensors", "", size_of="float32"),
    FileKind("stablehlo", "XLA"),
    FileKind("onnx", "onnxruntime"),
    FileKind("litert", "LiteRT"),
    FileKind("litert", "LiteRT int8", "int8", size_of="int8"),
    FileKind("openvino", "OpenVINO"),
    FileKind("torch", "torch"),
)


def run(
    path: pathlib.Path, options: Mapping[str, Any] | None = None, *, seconds: float = 4.0
) -> Report:
    """Measures a student and its teachers, prints tables, and writes gains.json and gains.png.

    Args:
      path: as for `compared_networks.load`; a network without a teacher is reported alone.
      options: of `library.load`.
      seconds: of measurement for each batch size, on one core and on all.

    Raises:
      InputError: there is no network, or `seconds` is negative or not finite.
      DiskError: the results cannot be written.
    """
    if not 0 <= seconds < float("inf"):
        raise errors.InputError(f"seconds is {seconds}, but must be a finite number, 0 or more")
    options = dict(options or {})
    student = compared_networks.load(path, **options)
    teachers, left_out = compared_networks.load_teachers(path, student)
    role = "student" if teachers or left_out else "network"
    has_classes = student.about.num_classes > 0
    members = [ComparedNetwork(role, student, shares_classes=has_classes), *teachers]
    images = sample_images.load(student.about, compared_networks.source_of(path), None, _IMAGES)
    networks = _measure(members, images, raw=options.get("raw", False))
    with tempfile.TemporaryDirectory(prefix="rrd_jax_") as folder:
        written, sizes = _write_files(members, images, pathlib.Path(folder), left_out)
        shape = student.about.preprocessing.image_shape
        latencies = latency.measure(written, shape, seconds) if written else []
    networks = [dataclasses.replace(n, bytes=sizes.get(n.role, {})) for n in networks]
    if len(teachers) > 1:
        networks.append(_sum_of_teachers(networks[1:], teachers, images))
        latencies += _sum_of_latencies(latencies, [member.role for member in teachers])
    about = {
        "dataset": str(student.about.training.get("dataset", "")),
        "machine": f"{_processor()}, {len(latency.cores())} cores",
    }
    report = Report(str(path), about, networks, latencies, left_out)
    _print(report)
    _write_report(report, path)
    return report


def _measure(
    members: Sequence[ComparedNetwork], images: Images, *, raw: bool
) -> list[Measurements]:
    """Returns costs and accuracies; those that no checkpoint holds are computed on the images."""
    dataset = members[0].network.about.training.get("dataset")
    results = []
    for member in members:
        is_student = member is members[0]
        known = measurements.saved(member.network, dataset, raw=raw and is_student)
        images_of = "test split"
        teachers = members[1:] if is_student else ()
        has_agreement = bool(teachers) and _share_classes([member, *teachers])
        is_missing = "top1" not in known or (has_agreement and "agreement" not in known)
        if is_missing and images.is_real and member.shares_classes:
            console.progress("report", [f"accuracy of the {member.role}"])
            images_of = f"{len(images.images)} {images.description}"
            targets = _logits(teachers, images) if has_agreement else None
            known = measurements.accuracy(_logits([member], images), images, targets)
        parameters, macs = measurements.costs(member.network)
        results.append(
            Measurements(
                role=member.role,
                model=member.network.about.model,
                top1=known.get("top1"),
                agreement=known.get("agreement") if is_student else None,
                images=images_of,
                parameters=parameters,
                macs=macs,
            )
        )
    return results


def _share_classes(members: Sequence[ComparedNetwork]) -> bool:
    return all(member.shares_classes for member in members)


def _logits(members: Sequence[ComparedNetwork], images: Images) -> np.ndarray:
    """Returns the weighted sum of logits, [N, C]."""
    parts = [member.weight * measurements.logits(member.network, images) for member in members]
    return np.sum(parts, axis=0)


def _sum_of_teachers(
    teachers: Sequence[Measurements], members: Sequence[ComparedNetwork], images: Images
) -> Measurements:
    """Returns several teachers as the one that the student has learned from."""
    known: dict[str, float] = {}
    if images.is_real and _share_classes(members):
        known = measurements.accuracy(_logits(members, images), images)
    kinds = set.intersection(*(set(teacher.bytes) for teacher in teachers))
    return Measurements(
        role=_SUM,
        model="+".join(teacher.model for teacher in teachers),
        top1=known.get("top1"),
        agreement=None,
        images=f"{len(images.images)} {images.description}",
        parameters=sum(teacher.parameters for teacher in teachers),
        macs=sum(teacher.macs for teacher in teachers),
        bytes={kind: sum(teacher.bytes[kind] for teacher in teachers) for kind in sorted(kinds)},
    )


def _sum_of_latencies(latencies: Sequence[Latency], roles: Sequence[str]) -> list[Latency]:
    """Returns the latencies of all teachers one after the other, where all were measured."""
    groups: dict[tuple[str, int, int], list[Latency]] = {}
    for entry in latencies:
        if entry.network in roles:
            groups.setdefault((entry.runtime, entry.cores, entry.batch), []).append(entry)
    return [
        Latency(
            network=_SUM,
            runtime=runtime,
            cores=cores,
            batch=batch,
            median=sum(entry.median for entry in group),
            p90=sum(entry.p90 for entry in group),
            runs=min(entry.runs for entry in group),
        )
        for (runtime, cores, batch), group in groups.items()
        if len(group) == len(roles)
    ]


def _write_files(
    members: Sequence[ComparedNetwork],
    images: Images,
    folder: pathlib.Path,
    left_out: list[str],
) -> tuple[list[File], dict[str, dict[str, int]]]:
    """Writes files of all kinds; appends a line to `left_out` for each that cannot be written.

    Returns:
      The files to measure, and {role: {kind: bytes}}.
    """
    written_files, sizes = [], {member.role: {} for member in members}
    reasons: dict[str, list[str]] = {}
    for member in members:
        few = Images(images.images[:100], None, images.description, images.is_real)
        tried = exports.Trial(member.network, few)
        for kind in FILE_KINDS:
            name = kind.runtime or kind.format
            console.progress("report", [f"{name} of the {member.role}"])
            try:
                written = _write(tried, kind, folder / member.role)
            except errors.DiskError:
                raise
            except Exception as error:  # The library of one format may fail; others go on.
                reason = f"{name}: {runtime_errors.first_line(error)}"
                reasons.setdefault(reason, []).append(member.role)
                continue
            if kind.size_of:
                sizes[member.role][kind.size_of] = written.bytes
            if kind.runtime == "torch" and not written.runtime.startswith("torch"):
                reasons.setdefault(f"torch: {written.runtime}", []).append(member.role)
            elif kind.runtime:
                written_files.append(File(member.role, kind.runtime, kind.format, written.path))
    left_out += [f"{' and '.join(roles)} in {reason}" for reason, roles in reasons.items()]
    return written_files, sizes


def _write(tried: exports.Trial, kind: FileKind, folder: pathlib.Path) -> exports.Written:
    form = exports.get_format(kind.format)
    wanted = Options(quantize=kind.quantize, embed_preprocessing=bool(kind.runtime))
    options = writer.supported_options(form, wanted)
    if kind.quantize and not options.quantize:
        raise errors.InputError(f"format '{form.name}' has no weights of 8 bits")
    name = writer.file_name(tried.exportable.about, form, options)
    return exports.write(tried, form, folder / name, options)


def _processor() -> str:
    """Returns the name of the machine's processor."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        lines = [line for line in text.splitlines() if line.startswith("model name")]
        return lines[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _print(report: Report) -> None:
    console.print_table(*report_tables.costs(report.networks))
    if report.latencies:
        console.print_table(
            *report_tables.latencies(report),
            before=f"\nmilliseconds for a batch, median (p90), from uint8 images to outputs, on"
            f" {report.about['machine']}:\n",
        )
    for line in report.left_out:
        console.note(f"left out: {line}")


def _write_report(report: Report, path: pathlib.Path) -> None:
    """Writes gains.json and gains.png into the workdir."""
    home, _ = files.split(path)
    folder = home.parent if home.is_file() or home.name == "checkpoints" else home
    atomic_write.write_json(folder / "gains.json", report.to_json())
    written = [folder / "gains.json"]
    try:
        report_figure.draw(report, folder / "gains.png")
        written.append(folder / "gains.png")
    except errors.UnavailableError as error:
        console.note(str(error))
    console.say(f"written: {' and '.join(map(str, written))}")
