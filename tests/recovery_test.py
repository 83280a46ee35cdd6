"""Recovery of real processes: kills, signals, full disks, second starts, and several processes."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from rrd_jax.run_folder import metrics_writer

# One worker of pytest-xdist runs all of these tests, since they share a run.
pytestmark = pytest.mark.xdist_group("recovery")
_EPOCH_STEPS = 5
# Runs `rrd_jax.main`, and sends a signal right before the checkpoint of a step gets its final name.
_SIGNALLED = """
import os, runpy, sys
number, step = int(sys.argv[1]), sys.argv[2]
del sys.argv[1:3]
def signal_at_commit(event, arguments):
    if event == "os.rename" and os.fspath(arguments[1]).endswith(f"/checkpoints/{step}"):
        os.kill(os.getpid(), number)
sys.addaudithook(signal_at_commit)
runpy.run_module("rrd_jax.main", run_name="__main__", alter_sys=True)
"""


class _Job:
    """The command of a small run with a memory, and the contents of its workdirs.

    All processes share the compilation cache of the tests.
    """

    def __init__(self, root, data_dir, epochs):
        self.root, self.epochs, self.steps = root, epochs, epochs * _EPOCH_STEPS
        self.environment = os.environ | {"TFDS_DATA_DIR": data_dir, "JAX_NUM_CPU_DEVICES": "1"}
        # The teacher is trained, because an untrained teacher would amplify rounding errors.
        teacher = self.start("teacher", argument="resnet8,ce", **{"train.epochs": 1})
        assert teacher.wait() == 0, self.log("teacher")
        self._teacher = root / "teacher"
        self.finish("uninterrupted")

    def start(
        self,
        name,
        program=("-m", "rrd_jax.main"),
        argument="resnet8-resnet8,rrd+kd",
        devices=1,
        environment=None,
        **fields,
    ):
        """Starts or resumes a run; its output is in <name>.log."""
        fields = {"train.epochs": self.epochs, "train.save_every": 1} | fields
        fields = {"baseline": False, "train.batch_size": 40} | fields
        if "ce" not in argument:
            fields["teacher.checkpoint"] = self._teacher
        with (self.root / f"{name}.log").open("a") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, *program),
                    f"--config=configs/digits.py:{argument}",
                    f"--workdir={self.root / name}",
                    *(f"--config.{field}={value}" for field, value in fields.items()),
                ],
                env=self.environment | {"JAX_NUM_CPU_DEVICES": str(devices)} | (environment or {}),
                stdout=log,
                stderr=log,
            )

    def run_until(self, name, number, step, **fields):
        """Runs until a signal at the commit of a step; returns the exit code."""
        program = ("-c", _SIGNALLED, str(int(number)), str(step))
        return self.start(name, program, **fields).wait()

    def finish(self, name):
        assert self.start(name).wait() == 0, self.log(name)
        return self

    def start_two(self, name, devices, slurm=False, **fields):
        """Yields two processes that run together; both write to <name>.log."""
        # JAX derives the port from the number of a Slurm job, which has 2^12 possible values.
        job = random.randrange(2**12)
        address = f"--coordinator=localhost:{65535 - 2**12 + 1 + job}"
        for i in range(2):
            program, environment = ("-m", "rrd_jax.main"), {}
            if slurm:
                variables = {"LOCALID": i, "PROCID": i, "NTASKS": 2, "JOB_ID": job}
                variables |= {"STEP_NODELIST": "localhost", "STEP_NUM_NODES": 1}
                environment = {f"SLURM_{key}": str(value) for key, value in variables.items()}
            else:
                program += (address, "--processes=2", f"--process_id={i}")
            yield self.start(name, program, devices=devices, environment=environment, **fields)

    def log(self, name):
        path = self.root / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def digests(self, name):
        path = self.root / name / "checkpoints" / str(self.steps) / "meta" / "metadata"
        return json.loads(path.read_text())["digests"]

    def rows(self, name):
        lines = (self.root / name / "metrics.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        return [
            {k: v for k, v in row.items() if k not in metrics_writer.speeds(1, 1, 1, 1, start=0)}
            for row in rows
        ]

    def saved(self, name):
        folder = self.root / name / "checkpoints"
        return {path.name for path in folder.glob("*")} if folder.is_dir() else set()

    def assert_equals_uninterrupted(self, name):
        """Asserts that digests and rows equal those of the uninterrupted run."""
        assert self.digests(name) == self.digests("uninterrupted")
        assert self.rows(name) == self.rows("uninterrupted")
        epochs = range(_EPOCH_STEPS, self.steps + 1, _EPOCH_STEPS)
        assert [row["step"] for row in self.rows(name)] == list(epochs)


@pytest.fixture(scope="module")
def job(tmp_path_factory, data_dir):
    """A job of 12 epochs, with an uninterrupted run in `uninterrupted`."""
    return _Job(tmp_path_factory.mktemp("recovery"), data_dir, epochs=12)


@pytest.mark.long
def test_a_run_that_is_killed_in_a_save_and_then_stopped_ends_bit_identical(job):
    assert job.run_until("broken", signal.SIGKILL, step=7) == -signal.SIGKILL, job.log("broken")
    assert "7" not in job.saved("broken")
    assert any("tmp" in name for name in job.saved("broken"))
    assert job.run_until("broken", signal.SIGTERM, step=9) == 75, job.log("broken")
    assert "resuming from step 6" in job.log("broken")
    _assert_stopped_and_saved(job, "broken", 9)
    job.finish("broken").assert_equals_uninterrupted("broken")


def _assert_stopped_and_saved(job, name, after):
    step = int(re.findall(r"stopped by SIGTERM; step (\d+) is saved", job.log(name))[-1])
    assert step >= after
    assert str(step) in job.saved(name)
    return step


def _wait_until(condition, *processes, seconds=300.0):
    """Waits until the condition holds or a process ends; returns True if one has ended.

    The limit is long, because a busy machine may be slow.
    """
    end = time.monotonic() + seconds
    while not condition():
        if any(process.poll() is not None for process in processes):
            return True
        assert time.monotonic() < end
        time.sleep(0.001)
    return False


def _wait_for_step(job, name, step, *processes):
    has_ended = _wait_until(
        lambda: any(n.isdigit() and int(n) >= step for n in job.saved(name)), *processes
    )
    assert not has_ended, job.log(name)


@pytest.mark.long
def test_a_run_that_is_killed_four_times_ends_bit_identical(job):
    moments = random.Random(0)
    for _ in range(2):
        # Kill the run in a save, some steps after the newest checkpoint.
        step = max((int(n) for n in job.saved("killed") if n.isdigit()), default=0)
        step += moments.randint(1, 3)
        assert job.run_until("killed", signal.SIGKILL, step) == -signal.SIGKILL, job.log("killed")
        assert str(step) not in job.saved("killed")
        assert any("tmp" in name for name in job.saved("killed"))
        # Kill the run at any moment after its first line of output.
        size = len(job.log("killed"))
        process = job.start("killed")
        has_ended = _wait_until(lambda size=size: len(job.log("killed")) > size, process)
        assert not has_ended, job.log("killed")
        time.sleep(moments.random())
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL), job.log("killed")
    job.finish("killed").assert_equals_uninterrupted("killed")


@pytest.mark.long
def test_sigterm_saves_an_unscheduled_checkpoint_and_ends_with_code_75(job):
    for last in (5, 20):
        process = job.start("stopped", **{"train.save_every": 0})
        _wait_for_step(job, "stopped", last, process)
        process.terminate()
        assert process.wait() == 75, job.log("stopped")
        _assert_stopped_and_saved(job, "stopped", last)
    job.finish("stopped").assert_equals_uninterrupted("stopped")


@pytest.mark.long
def test_a_second_run_in_a_workdir_is_refused_and_the_first_continues(job):
    first = job.start("shared")
    _wait_for_step(job, "shared", 1, first)
    second = subprocess.run(first.args, env=job.environment, capture_output=True, text=True)
    assert second.returncode == 2
    (line,) = second.stderr.strip().split("\n")
    assert f"shared is in use by process {first.pid} on " in line
    assert first.wait() == 0, job.log("shared")
    job.assert_equals_uninterrupted("shared")


def _row_values(rows):
    """Returns the values of the rows of a run, one list per row."""
    return [[row[name] for name in sorted(row)] for row in rows]


@pytest.mark.long
def test_two_processes_with_four_devices_equal_one_process_with_eight(job):
    fields = {"train.epochs": 2, "train.save_every": 0}
    assert job.start("eight", devices=8, **fields).wait() == 0, job.log("eight")
    for process in list(job.start_two("four_and_four", 4, **fields)):
        assert process.wait() == 0, job.log("four_and_four")
    np.testing.assert_allclose(
        _row_values(job.rows("four_and_four")), _row_values(job.rows("eight")), rtol=1e-5
    )
    queues = [_queue(job.root / name / "checkpoints" / "10") for name in ("eight", "four_and_four")]
    np.testing.assert_allclose(queues[0]["rows"], queues[1]["rows"], atol=1e-5)
    assert queues[0]["cursor"] == queues[1]["cursor"]
    # Only one process prints the results.
    assert job.log("four_and_four").count("| distilled, rrd+kd |") == 1


def _queue(step):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(step / "state").item_metadata.tree
        template = {"memory": {"rrd": tree["memory"]["rrd"]}}
        restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), template)
        restored = checkpointer.restore(
            step / "state",
            args=ocp.args.PyTreeRestore(template, restore_args=restore_args, partial_restore=True),
        )
    return restored["memory"]["rrd"]


@pytest.mark.long
def test_sigterm_to_one_of_two_processes_stops_both_and_one_process_can_resume(job):
    processes = list(job.start_two("parted", 2, slurm=True, **{"train.save_every": 0}))
    _wait_for_step(job, "parted", 5, *processes)
    processes[1].terminate()
    for process in processes:
        assert process.wait() == 75, job.log("parted")
    steps = re.findall(r"stopped by SIGTERM; step (\d+) is saved", job.log("parted"))
    assert len(set(steps)) == 1
    assert steps[0] in job.saved("parted")
    assert job.start("parted", devices=4).wait() == 0, job.log("parted")
    assert f"resuming from step {steps[0]}" in job.log("parted")
    rows, expected_rows = job.rows("parted"), job.rows("uninterrupted")
    assert len(rows) == len(expected_rows)
    for row, expected in zip(rows[:2], expected_rows[:2], strict=True):
        for name, value in expected.items():
            # Rounding may change the predictions of a few of the 797 test images; the losses hardly
            # change.
            percent = name.split("/")[-1] in ("top1", "top5", "agreement")
            tolerance = {"abs": 0.5} if percent else {"rel": 1e-4}
            assert row[name] == pytest.approx(value, **tolerance), name


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_ends_when_the_other_is_killed(job, victim):
    name = f"widowed-{victim}"
    processes = list(job.start_two(name, 1, **{"train.epochs": 200}))
    _wait_for_step(job, name, 1, *processes)
    start = time.monotonic()
    processes[victim].kill()
    assert processes[1 - victim].wait(timeout=60) == 75, job.log(name)
    # JAX needs 100 seconds.
    assert time.monotonic() - start < 50
    assert job.log(name).count("error: ") == 1
    assert re.search(f"error: process {victim} on .* was lost", job.log(name))
    assert "Traceback" not in job.log(name)


@pytest.mark.long
def test_two_processes_with_different_fields_are_both_refused(job):
    process = next(job.start_two("different", 1))
    address = next(arg for arg in process.args if arg.startswith("--coordinator"))
    other = job.start(
        "different",
        ("-m", "rrd_jax.main", address, "--processes=2", "--process_id=1"),
        **{"train.epochs": 5},
    )
    assert [process.wait(timeout=120), other.wait(timeout=120)] == [2, 2], job.log("different")
    # Both processes write to one file, in which pieces of their lines may alternate.
    message = f"disagree: config.train.epochs is {job.epochs} in process 0 but 5 in process 1"
    assert job.log("different").count(message) == 2


@contextlib.contextmanager
def _disk(folder, size):
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]).returncode:
        pytest.skip("this machine does not allow mounting a small disk")
    try:
        yield lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", folder], check=True
        )
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.long
def test_a_full_or_read_only_disk_gives_one_line_and_the_run_resumes(job):
    checkpoint = job.root / "uninterrupted" / "checkpoints" / str(job.steps)
    size = sum(path.stat().st_size for path in checkpoint.rglob("*"))
    with _disk(job.root / "disk", int(2.5 * size)) as remount:
        process = job.start("disk")
        assert process.wait() == 74, job.log("disk")
        *before, last = job.log("disk").strip().split("\n")
        assert not [line for line in before if "Traceback" in line or "Error" in line]
        assert "No space left on device" in last
        good = re.search(r"the last intact checkpoint is step (\d+); free disk space", last)[1]
        assert good in job.saved("disk")
        remount("ro")
        assert job.start("disk").wait() == 74
        last = job.log("disk").strip().split("\n")[-1]
        assert re.search(r"^error: workdir .* cannot be used: .*Read-only file system", last)
        remount("rw,size=200m")
        job.finish("disk").assert_equals_uninterrupted("disk")
