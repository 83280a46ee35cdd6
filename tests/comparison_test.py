"""The report that compares a student with its teachers, and the summary after training."""

import dataclasses
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest

from rrd_jax import errors, exports, networks
from rrd_jax.comparison import (
    compare,
    compared_networks,
    final_summary,
    latency,
    measurements,
    report_figure,
    report_tables,
)
from rrd_jax.comparison.latency import File, Latency
from rrd_jax.config import parse
from rrd_jax.data.model_info import ModelInfo, Preprocessing
from rrd_jax.exports import sample_images
from rrd_jax.jobs.progress import Result
from tests import launch
from tests.conftest import use_one_device
from tests.exports import private

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_device", "tiny_network")]


@pytest.fixture(scope="module")
def job(tiny_network, tmp_path_factory):
    """The workdir of a job with two teachers, the plan and the results."""
    folder, config = tmp_path_factory.mktemp("run"), launch.digits("smoke,tiny+tiny-tiny,kd")
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        return folder, parse(config), launch.run(config, folder)


@pytest.fixture
def run(job, tmp_path):
    """A copy of the workdir."""
    return pathlib.Path(shutil.copytree(job[0], tmp_path / "run"))


@pytest.fixture
def measured(monkeypatch):
    """Replaces all formats by one of the tests, and latencies by constants."""

    def measure(files, image_shape, seconds):
        assert image_shape == (8, 8, 1)
        return [
            Latency(f.network, f.runtime, cores, batch, 1.0 + i, 2.0 + i, 9)
            for i, f in enumerate(files)
            for cores in (1, 2)
            for batch in (1, 32)
        ]

    kinds = (compare.FileKind("private", "tests", size_of="float32"),)
    monkeypatch.setattr(compare, "FILE_KINDS", kinds)
    monkeypatch.setattr(latency, "measure", measure)
    with private.registered():
        yield


def _change_teachers(run, change):
    fields = json.loads((run / "config.json").read_text())
    fields["teacher"] = change(fields["teacher"])
    (run / "config.json").write_text(json.dumps(fields))


def test_calls_alternate_and_their_order_is_reversed_each_turn():
    calls, clock = [], [0.0]

    def call(name, seconds):
        def run():
            calls.append(name)
            clock[0] += seconds

        return run

    short, long = call("short", 0.001), call("long", 1.0)
    times = latency.interleaved([short, long], 0.0, clock=lambda: clock[0])
    np.testing.assert_allclose(times[0], [0.001] * 50)
    np.testing.assert_allclose(times[1], [1.0] * 5)
    # The calls of the warm-up.
    assert calls[:6] == ["short"] * 3 + ["long"] * 3
    # An uncounted call precedes ten short calls in each turn, but only the first long call.
    short_turn, rest = "s" * 11, "".join(name[0] for name in calls[6:])
    assert rest == (
        f"{short_turn}ll"
        + f"l{short_turn}"
        + f"{short_turn}l"
        + f"l{short_turn}"
        + f"{short_turn}l"
    )
    (durations,) = latency.interleaved([short], 0.2, clock=lambda: clock[0])
    assert 150 <= len(durations) <= 200


def test_a_file_is_measured_on_one_core_and_on_all_cores(tmp_path):
    network = networks.create("resnet8", 10)
    variables = networks.init(network, jax.random.key(0), (8, 8, 1))
    info = ModelInfo("resnet8", 10, preprocessing=Preprocessing(8, 1, (0.3,), (0.4,)))
    images = exports.Images(np.zeros((2, 8, 8, 1), np.uint8), None, "images")
    trial = exports.Trial(exports.make_exportable(network, variables, info), images)
    path = tmp_path / "it.safetensors"
    exports.write(trial, exports.get_format("safetensors"), path)
    entries = latency.measure([File("student", "XLA", "safetensors", path)], (8, 8, 1), 0.05)
    cores = len(latency.cores())
    settings = [(entry.cores, entry.batch) for entry in entries]
    assert settings == [(n, batch) for n in dict.fromkeys([1, cores]) for batch in (1, 32)]
    assert all(entry.runs >= 5 and 0 < entry.median <= entry.p90 for entry in entries)
    path.write_bytes(b"damaged")
    with pytest.raises(errors.InputError, match="the measurement of latencies failed: "):
        latency.measure([File("student", "XLA", "safetensors", path)], (8, 8, 1), 0.05)


def test_files_are_measured_with_both_batch_sizes(tmp_path):
    shapes = []
    with private.registered(open=lambda path, threads: lambda images: shapes.append(images.shape)):
        files = [("student", "tests", "private", str(tmp_path))]
        job = {"files": files, "image_shape": [8, 8, 1], "seconds": 0, "cores": [0]}
        entries = latency.run_job(job)
    assert [(e.network, e.cores, e.batch, e.runs) for e in entries] == [
        ("student", 1, 1, 50),
        ("student", 1, 32, 50),
    ]
    assert set(shapes) == {(1, 8, 8, 1), (32, 8, 8, 1)}


def test_a_student_is_compared_with_each_teacher_and_with_all_teachers(run, job, measured, capsys):
    pytest.importorskip("matplotlib")
    report = compare.run(run)
    roles = [figure.role for figure in report.networks]
    assert roles == ["student", "teacher 1", "teacher 2", "teachers"]
    student, first, second, together = report.networks
    results = job[2]
    assert (student.top1, student.agreement) == (results[-1].top1, results[-1].agreement)
    assert (first.top1, second.top1) == (results[0].top1, results[1].top1)
    assert student.parameters == results[-1].parameters
    assert together.parameters == first.parameters + second.parameters
    assert together.macs == first.macs + second.macs == 2 * student.macs
    assert together.images == "24 test images"
    entries = {(e.network, e.cores, e.batch): e.median for e in report.latencies}
    assert entries["teachers", 1, 32] == entries["teacher 1", 1, 32] + entries["teacher 2", 1, 32]
    stored = json.loads((run / "gains.json").read_text())
    assert [network["role"] for network in stored["networks"]] == roles
    assert len(stored["latencies"]) == len(report.latencies) == 16
    assert (run / "gains.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "| student / teacher " in out
    # The teachers take 2 + 3 ms, the student takes 1 ms.
    assert "5.0x" in out
    assert f"{run}/gains.json and {run}/gains.png" in out.splitlines()[-1]


def test_a_missing_teacher_is_reported_and_left_out(run, measured, capsys):
    _change_teachers(run, lambda teachers: teachers[0] | {"checkpoint": str(run / "gone")})
    report = compare.run(run)
    assert [figure.role for figure in report.networks] == ["student"]
    # The checkpoint stores the agreement.
    assert report.networks[0].agreement is not None
    assert "note: omitted: teacher: the teacher of the run in" in capsys.readouterr().out


def test_a_network_without_a_teacher_is_measured(run, measured):
    report = compare.run(run / "teacher")
    (network,) = report.networks
    assert (network.role, network.agreement) == ("network", None)
    assert (run / "teacher" / "gains.json").exists()


def test_metrics_that_a_checkpoint_does_not_store_are_measured(run, measured):
    _change_teachers(run, lambda teachers: teachers[0])
    stored = compare.run(run).networks[0]
    measured_again = compare.run(run, {"raw": True}).networks[0]
    assert (measured_again.top1, measured_again.agreement) == (stored.top1, stored.agreement)
    assert (stored.images, measured_again.images) == ("test split", "24 test images")


def test_without_matplotlib_only_the_figure_is_missing(run, measured, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    compare.run(run)
    assert "pip install 'rrd_jax[plots]'" in capsys.readouterr().out
    assert (run / "gains.json").exists()
    assert not (run / "gains.png").exists()


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("latencies", [True, False])
def test_a_figure_is_drawn_with_missing_values(tmp_path, number, latencies):
    pytest.importorskip("matplotlib")
    # The name is too long, and must not be read as a formula.
    name = "my.networks:Small$x_$" * 9
    student = measurements.Measurements("student", name, 50.0, None, "", 10, 0, {"float32": 10})
    teacher = measurements.Measurements("teacher", "b", None, None, "", 5, 0)
    entries = [Latency(role, "XLA", 1, 1, 2.0, 3.0, 9) for role in ("student", "teacher")[:number]]
    networks = [student, teacher][:number]
    report = report_tables.Report("W", {"machine": "m"}, networks, entries if latencies else [], [])
    report_figure.draw(report, tmp_path / "gains.svg")
    assert "<svg" in (tmp_path / "gains.svg").read_text()
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(errors.InputError, match="cannot be written"):
        report_figure.draw(report, tmp_path / "none" / "gains.png")


def test_training_ends_with_a_comparison_of_student_and_teacher(job):
    folder, plan, results = job
    # Runs on random images are not compared.
    assert not final_summary.lines(plan, folder, results)
    source = dataclasses.replace(plan.student.source, mock_examples=0)
    plan = dataclasses.replace(plan, student=dataclasses.replace(plan.student, source=source))
    comparison, use = final_summary.lines(plan, folder, results)
    assert comparison.startswith(
        f"tiny compared with tiny+tiny: top-1 {results[-1].top1:.2f}, agreement "
    )
    assert "50 % of the parameters (" in comparison
    assert " and 50 % of the multiply-adds (" in comparison
    assert f"python -m rrd_jax.export --workdir={folder} --format=onnx (--report" in use
    single = dataclasses.replace(plan, teachers=plan.teachers[:1])
    (comparison, _) = final_summary.lines(single, folder, results)
    assert f"top-1 {results[-1].top1:.2f} (teacher {results[0].top1:.2f}), agreement" in comparison
    alone = dataclasses.replace(plan, teachers=())
    (use,) = final_summary.lines(alone, pathlib.Path("a b"), results)
    assert "--workdir='a b'" in use
    assert "--report" not in use
    lost: list[Result] = []
    assert not final_summary.lines(plan, folder, lost)


def test_a_teacher_with_other_classes_has_no_accuracy_or_agreement(run):
    student = compared_networks.load(run)
    (teacher, _), _ = compared_networks.load_teachers(run, student)
    images = sample_images.load(student.about, compared_networks.source_of(run), None, 24)
    info = dataclasses.replace(student.about, metrics={})
    alone = compared_networks.ComparedNetwork("student", dataclasses.replace(student, about=info))
    same_classes, _ = compare._measure([alone, teacher], images, raw=False)
    info = dataclasses.replace(teacher.network.about, class_names=(*"ABCDEFGHIJ",), metrics={})
    network = dataclasses.replace(teacher.network, about=info)
    with_other_classes = compared_networks.ComparedNetwork("teacher", network, shares_classes=False)
    figures = compare._measure([alone, with_other_classes], images, raw=False)
    assert (figures[0].top1, figures[0].agreement) == (same_classes.top1, None)
    assert figures[1].top1 is None
    assert same_classes.agreement is not None


def test_labels_of_test_images_follow_the_class_order_of_the_network(run):
    info, source = compared_networks.load(run).about, compared_networks.source_of(run)
    labels = sample_images.load(info, source, None, 24).labels

    def labels_for(names):
        other = dataclasses.replace(info, num_classes=len(names), class_names=names)
        return sample_images.load(other, source, None, 24).labels

    np.testing.assert_array_equal(labels_for(tuple("9876543210")), 9 - labels)
    np.testing.assert_array_equal(labels_for(("x", *"0123456789")), 1 + labels)
    assert labels_for(tuple("abc")) is None
    assert labels_for(tuple("abcdefghij")) is None


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0])
def test_an_invalid_duration_is_refused(run, seconds):
    with pytest.raises(errors.InputError, match="must be a finite number"):
        compare.run(run, seconds=seconds)
