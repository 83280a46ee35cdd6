"""The report of `rrd_jax.export --report`: a student beside its teacher, in figures."""

import dataclasses
import pathlib
import platform
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rrd_jax import errors, exports
from rrd_jax.comparison import figures, latency, picture, shown, subjects
from rrd_jax.comparison.figures import Figures
from rrd_jax.comparison.latency import File, Latency
from rrd_jax.comparison.shown import Report
from rrd_jax.comparison.subjects import Member
from rrd_jax.exports import Images, Options, trial, writing
from rrd_jax.run_folder import report
from rrd_jax.terminal import console, failures
from rrd_jax.weights import files

_IMAGES = 500  # to compare files on, and for accuracies that nobody has kept
TOGETHER = "teachers"


class _Kind(NamedTuple):
    """A file that is written to be measured.

    Attributes:
      format: name.
      runtime: that runs it, as the table calls it; "" for one that is only weighed.
      quantize: as Options has it.
      weighed: what its size is called; "" where it does not count.
    """

    format: str
    runtime: str
    quantize: str = ""
    weighed: str = ""


_KINDS = (
    _Kind("safetensors", "", weighed="float32"),
    _Kind("stablehlo", "XLA"),
    _Kind("onnx", "onnxruntime"),
    _Kind("litert", "LiteRT"),
    _Kind("litert", "LiteRT int8", "int8", weighed="int8"),
    _Kind("openvino", "OpenVINO"),
    _Kind("torch", "torch"),
)


def run(
    path: pathlib.Path, given: Mapping[str, Any] | None = None, *, seconds: float = 4.0
) -> Report:
    """Measures a run's student and its teachers, prints tables, and keeps JSON and a picture.

    Args:
      path: as `subjects.load` has it; a network without a teacher stands alone.
      given: what a user says of it.
      seconds: about, for the latencies of each size of batches on one core and on all.

    Raises:
      InputError: there is no network, or `seconds` is no number of them.
      DiskError: the results cannot be written.
    """
    if not 0 <= seconds < float("inf"):
        raise errors.InputError(f"seconds is {seconds}, but must be a finite number, 0 or more")
    given = dict(given or {})
    student = subjects.load(path, **given)
    teachers, left_out = subjects.load_teachers(path, student)
    role = "student" if teachers or left_out else "network"
    members = [Member(role, student, compares=student.about.num_classes > 0), *teachers]
    images = trial.images_for(student.about, subjects.source_of(path), None, _IMAGES)
    networks = _figures(members, images, raw=given.get("raw", False))
    with tempfile.TemporaryDirectory(prefix="rrd_jax_") as folder:
        measured, sizes = _files(members, images, pathlib.Path(folder), left_out)
        shape = student.about.preprocessing.image_shape
        latencies = latency.measure(measured, shape, seconds) if measured else []
    networks = [dataclasses.replace(f, bytes=sizes.get(f.role, {})) for f in networks]
    if len(teachers) > 1:
        networks.append(_together(networks[1:], teachers, images))
        latencies += _summed(latencies, [member.role for member in teachers])
    about = {
        "dataset": str(student.about.training.get("dataset", "")),
        "machine": f"{_processor()}, {len(latency.cores())} cores",
    }
    found = Report(str(path), about, networks, latencies, left_out)
    _print(found)
    _keep(found, path)
    return found


def _figures(members: Sequence[Member], images: Images, *, raw: bool) -> list[Figures]:
    """Of each network; accuracies that nobody has kept are taken of the images."""
    dataset = members[0].network.about.training.get("dataset")
    found = []
    for member in members:
        is_student = member is members[0]
        known = figures.kept(member.network, dataset, raw=raw and is_student)
        what, teachers = "test split", members[1:] if is_student else ()
        compared = bool(teachers) and _compare([member, *teachers])
        lacks = "top1" not in known or (compared and "agreement" not in known)
        if lacks and images.is_real and _compare([member]):
            console.progress("report", [f"accuracy of the {member.role}"])
            what = f"{len(images.images)} {images.what}"
            target = _logits(teachers, images) if compared else None
            known = figures.accuracy(_logits([member], images), images, target)
        agreement = known.get("agreement") if is_student else None
        costs = figures.costs(member.network)
        model = member.network.about.model
        found.append(Figures(member.role, model, known.get("top1"), agreement, what, *costs))
    return found


def _compare(members: Sequence[Member]) -> bool:
    """Whether the classes of all are the student's."""
    return all(member.compares for member in members)


def _logits(members: Sequence[Member], images: Images) -> np.ndarray:
    """[N, C]: the weighted sum."""
    parts = [member.weight * figures.logits(member.network, images) for member in members]
    return np.sum(parts, axis=0)


def _together(teachers: Sequence[Figures], members: Sequence[Member], images: Images) -> Figures:
    """Several teachers as the one that the student learned from."""
    known: dict[str, float] = {}
    if images.is_real and _compare(members):
        known = figures.accuracy(_logits(members, images), images)
    kinds = set.intersection(*(set(teacher.bytes) for teacher in teachers))
    return Figures(
        TOGETHER,
        "+".join(teacher.model for teacher in teachers),
        known.get("top1"),
        None,
        f"{len(images.images)} {images.what}",
        sum(teacher.parameters for teacher in teachers),
        sum(teacher.macs for teacher in teachers),
        {kind: sum(teacher.bytes[kind] for teacher in teachers) for kind in sorted(kinds)},
    )


def _summed(latencies: Sequence[Latency], roles: Sequence[str]) -> list[Latency]:
    """Of teachers that are called one after the other, where all of them were measured."""
    groups: dict[tuple, list[Latency]] = {}
    for entry in latencies:
        if entry.network in roles:
            groups.setdefault((entry.runtime, entry.cores, entry.batch), []).append(entry)
    return [
        Latency(
            TOGETHER,
            *place,
            sum(entry.median for entry in group),
            sum(entry.p90 for entry in group),
            min(entry.runs for entry in group),
        )
        for place, group in groups.items()
        if len(group) == len(roles)
    ]


def _files(
    members: Sequence[Member], images: Images, folder: pathlib.Path, left_out: list[str]
) -> tuple[list[File], dict[str, dict[str, int]]]:
    """Files of all kinds that can be written, and the sizes of those that are weighed.

    Returns:
      Those to measure, and {role: {kind: bytes}}.
    """
    measured, sizes = [], {member.role: {} for member in members}
    reasons: dict[str, list[str]] = {}
    for member in members:
        few = Images(images.images[:100], None, images.what, images.is_real)
        tried = exports.Trial(member.network, few)
        for kind in _KINDS:
            name = kind.runtime or kind.format
            console.progress("report", [f"{name} of the {member.role}"])
            try:
                written = _write(tried, kind, folder / member.role)
            except errors.DiskError:
                raise
            except Exception as error:  # a library's: the others are measured all the same
                reasons.setdefault(f"{name}: {failures.first_line(error)}", []).append(member.role)
                continue
            if kind.weighed:
                sizes[member.role][kind.weighed] = written.bytes
            if kind.runtime == "torch" and not written.runtime.startswith("torch"):
                reasons.setdefault(f"torch: {written.runtime}", []).append(member.role)
            elif kind.runtime:
                measured.append(File(member.role, kind.runtime, kind.format, written.path))
    left_out += [f"{' and '.join(roles)} in {reason}" for reason, roles in reasons.items()]
    return measured, sizes


def _write(tried: exports.Trial, kind: _Kind, folder: pathlib.Path) -> exports.Written:
    form = exports.get(kind.format)
    asked = Options(quantize=kind.quantize, embed_preprocessing=bool(kind.runtime))
    options = writing.known_options(form, asked)
    if kind.quantize and not options.quantize:
        raise errors.InputError(f"format '{form.name}' has no weights of 8 bits")
    name = writing.file_name(tried.exportable.about, form, options)
    return exports.write(tried, form, folder / name, options)


def _processor() -> str:
    """What the machine's processor is called."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
        lines = [line for line in text.splitlines() if line.startswith("model name")]
        return lines[0].partition(":")[2].strip()
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _print(found: Report) -> None:
    console.print_table(*shown.costs(found.networks))
    if found.latencies:
        console.print_table(
            *shown.latencies(found),
            before=f"\nmilliseconds for a batch, median (p90), from uint8 images to outputs, on"
            f" {found.about['machine']}:\n",
        )
    for line in found.left_out:
        console.note(f"left out: {line}")


def _keep(found: Report, path: pathlib.Path) -> None:
    """Writes gains.json and gains.png into the workdir."""
    home, _ = files.split(path)
    folder = home.parent if home.is_file() or home.name == "checkpoints" else home
    report.write_json(folder / "gains.json", found.to_json())
    kept = [folder / "gains.json"]
    try:
        picture.draw(found, folder / "gains.png")
        kept.append(folder / "gains.png")
    except errors.UnavailableError as error:
        console.note(str(error))
    console.say(f"kept in {' and '.join(map(str, kept))}")
