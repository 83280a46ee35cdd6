"""The report of `rrd_jax.export --report`, which compares a student with its teachers."""

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

# Number of images for verifying files, and for accuracies that are not stored in a checkpoint.
_IMAGES = 500
# The role of the ensemble of several teachers.
_ENSEMBLE = "teachers"


class FileKind(NamedTuple):
    """A kind of file that the report writes.

    Attributes:
      format: name of the format.
      runtime: name of the runtime in the table of latencies; "" if latency is not measured.
      quantize: see `Options`.
      size_of: "float32" or "int8" if the size of the file is reported, otherwise "".
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
      path: see `compared_networks.load`; the report of a network without a teacher has no
        comparison.
      options: arguments of `library.load`.
      seconds: duration of the measurement per batch size and number of cores.

    Raises:
      InputError: the network is missing, or `seconds` is negative or not finite.
      DiskError: the results cannot be written.
    """
    if not 0 <= seconds < float("inf"):
        raise errors.InputError(f"seconds is {seconds}, but must be a finite number of at least 0")
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
        networks.append(_measure_ensemble(networks[1:], teachers, images))
        latencies += _ensemble_latencies(latencies, [member.role for member in teachers])
    about = {
        "dataset": student.about.dataset_name,
        "machine": f"{_processor()}, {len(latency.cores())} cores",
    }
    report = Report(str(path), about, networks, latencies, left_out)
    _print(report)
    _write_report(report, path)
    return report


def _measure(
    members: Sequence[ComparedNetwork], images: Images, *, raw: bool
) -> list[Measurements]:
    """Returns costs and accuracies; computes accuracies that are not stored in a checkpoint."""
    dataset = members[0].network.about.training.get("dataset")
    results = []
    for member in members:
        is_student = member is members[0]
        accuracies = measurements.saved(member.network, dataset, raw=raw and is_student)
        description = "test split"
        teachers = members[1:] if is_student else ()
        has_agreement = bool(teachers) and _share_classes([member, *teachers])
        is_missing = "top1" not in accuracies or (has_agreement and "agreement" not in accuracies)
        if is_missing and images.is_real and member.shares_classes:
            console.progress("report", [f"accuracy of the {member.role}"])
            description = f"{len(images.images)} {images.description}"
            targets = _logits(teachers, images) if has_agreement else None
            accuracies = measurements.accuracy(_logits([member], images), images, targets)
        parameters, macs = measurements.costs(member.network)
        results.append(
            Measurements(
                role=member.role,
                model=member.network.about.model,
                top1=accuracies.get("top1"),
                agreement=accuracies.get("agreement") if is_student else None,
                images=description,
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


def _measure_ensemble(
    teachers: Sequence[Measurements], members: Sequence[ComparedNetwork], images: Images
) -> Measurements:
    """Returns the measurements of the ensemble of all teachers, from which the student learned."""
    accuracies: dict[str, float] = {}
    if images.is_real and _share_classes(members):
        accuracies = measurements.accuracy(_logits(members, images), images)
    kinds = set.intersection(*(set(teacher.bytes) for teacher in teachers))
    return Measurements(
        role=_ENSEMBLE,
        model="+".join(teacher.model for teacher in teachers),
        top1=accuracies.get("top1"),
        agreement=None,
        images=f"{len(images.images)} {images.description}",
        parameters=sum(teacher.parameters for teacher in teachers),
        macs=sum(teacher.macs for teacher in teachers),
        bytes={kind: sum(teacher.bytes[kind] for teacher in teachers) for kind in sorted(kinds)},
    )


def _ensemble_latencies(latencies: Sequence[Latency], roles: Sequence[str]) -> list[Latency]:
    """Returns the sums of all teachers' latencies, for settings in which all were measured."""
    groups: dict[tuple[str, int, int], list[Latency]] = {}
    for entry in latencies:
        if entry.network in roles:
            groups.setdefault((entry.runtime, entry.cores, entry.batch), []).append(entry)
    return [
        Latency(
            network=_ENSEMBLE,
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
    """Writes files of all kinds; appends a line to `left_out` for each file that cannot be written.

    Returns:
      The files to measure, and their sizes in bytes, {role: {kind: bytes}}.
    """
    written_files, sizes = [], {member.role: {} for member in members}
    reasons: dict[str, list[str]] = {}
    for member in members:
        subset = Images(images.images[:100], None, images.description, images.is_real)
        trial = exports.Trial(member.network, subset)
        for kind in FILE_KINDS:
            name = kind.runtime or kind.format
            console.progress("report", [f"{name} of the {member.role}"])
            try:
                written = _write(trial, kind, folder / member.role)
            except errors.DiskError:
                raise
            # The library of one format may fail. The report continues with the other formats.
            except Exception as error:
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


def _write(trial: exports.Trial, kind: FileKind, folder: pathlib.Path) -> exports.Written:
    form = exports.get_format(kind.format)
    requested = Options(quantize=kind.quantize, embed_preprocessing=bool(kind.runtime))
    options = writer.supported_options(form, requested)
    if kind.quantize and not options.quantize:
        raise errors.InputError(f"format '{form.name}' does not support 8-bit weights")
    name = writer.file_name(trial.exportable.about, form, options)
    return exports.write(trial, form, folder / name, options)


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
            before="\nlatency per batch in milliseconds, median (p90), from uint8 images to"
            f" outputs, on {report.about['machine']}:\n",
        )
    for line in report.left_out:
        console.note(f"omitted: {line}")


def _write_report(report: Report, path: pathlib.Path) -> None:
    """Writes gains.json and gains.png into the workdir, or exports/ for one in a bucket."""
    folder = files.home_of(path)
    if folder is None:
        folder = pathlib.Path("exports")
        folder.mkdir(exist_ok=True)
    atomic_write.write_json(folder / "gains.json", report.to_json())
    written = [folder / "gains.json"]
    try:
        report_figure.draw(report, folder / "gains.png")
        written.append(folder / "gains.png")
    except errors.UnavailableError as error:
        console.note(str(error))
    console.say(f"report: {' and '.join(map(str, written))}")
