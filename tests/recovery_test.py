"""Real processes that are killed, stopped, crowded out of their disk, started twice, or several."""

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

# One worker of pytest-xdist runs them all, beside whatever the other runs: they share a run.
pytestmark = pytest.mark.xdist_group("recovery")
_EPOCH_STEPS = 5
# Runs `rrd_jax.main`; as the checkpoint of a step is about to take its final name, a signal comes.
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
    """The command of a small run, with RRD's memory, and what its workdirs hold.

    All processes share one folder of compiled programs, that of the tests.
    """

    def __init__(self, root, data_dir, epochs):
        self.root, self.epochs, self.steps = root, epochs, epochs * _EPOCH_STEPS
        self.environment = os.environ | {"TFDS_DATA_DIR": data_dir, "JAX_NUM_CPU_DEVICES": "1"}
        # Its training is a run too: an untrained teacher would magnify what rounding does.
        teacher = self.start("teacher", argument="resnet8,ce", **{"train.epochs": 1})
        assert teacher.wait() == 0, self.log("teacher")
        self._teacher = root / "teacher"
        self.finish("whole")

    def start(
        self,
        name,
        program=("-m", "rrd_jax.main"),
        argument="resnet8-resnet8,rrd+kd",
        devices=1,
        also=None,
        **fields,
    ):
        """Starts a run, or goes on with it; its output is in <name>.log."""
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
                env=self.environment | {"JAX_NUM_CPU_DEVICES": str(devices)} | (also or {}),
                stdout=log,
                stderr=log,
            )

    def run_until(self, name, number, step, **fields):
        """Runs until a signal comes to it at the commit of a step; returns its exit code."""
        program = ("-c", _SIGNALLED, str(int(number)), str(step))
        return self.start(name, program, **fields).wait()

    def finish(self, name):
        assert self.start(name).wait() == 0, self.log(name)
        return self

    def start_two(self, name, devices, slurm=False, **fields):
        """The same in two processes that work together; both write to <name>.log."""
        # JAX takes Slurm's port from the job's number: this gives one out of 2^12.
        job = random.randrange(2**12)
        address = f"--coordinator=localhost:{65535 - 2**12 + 1 + job}"
        for i in range(2):
            if slurm:
                at = {"LOCALID": i, "PROCID": i, "NTASKS": 2, "JOB_ID": job}
                at |= {"STEP_NODELIST": "localhost", "STEP_NUM_NODES": 1}
                how = {"also": {f"SLURM_{key}": str(value) for key, value in at.items()}}
            else:
                flags = [address, "--processes=2", f"--process_id={i}"]
                how = {"program": ("-m", "rrd_jax.main", *flags)}
            yield self.start(name, devices=devices, **how, **fields)

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

    def assert_ended_as_unbroken(self, name):
        """The same bits and the same rows as the run that nothing disturbed."""
        assert self.digests(name) == self.digests("whole")
        assert self.rows(name) == self.rows("whole")
        epochs = range(_EPOCH_STEPS, self.steps + 1, _EPOCH_STEPS)
        assert [row["step"] for row in self.rows(name)] == list(epochs)


@pytest.fixture(scope="module")
def short_job(tmp_path_factory, data_dir):
    """The job in 3 epochs, with a run that nothing disturbed in `whole`."""
    return _Job(tmp_path_factory.mktemp("recovery"), data_dir, epochs=3)


@pytest.fixture(scope="module")
def job(tmp_path_factory, data_dir):
    """The job in 12 epochs, with a run that nothing disturbed in `whole`."""
    return _Job(tmp_path_factory.mktemp("recovery"), data_dir, epochs=12)


@pytest.mark.long
def test_a_run_killed_in_a_save_and_then_stopped_ends_bit_for_bit_as_an_unbroken_one(short_job):
    job = short_job
    assert job.run_until("broken", signal.SIGKILL, step=7) == -signal.SIGKILL, job.log("broken")
    assert "7" not in job.saved("broken")
    assert any("tmp" in name for name in job.saved("broken"))
    assert job.run_until("broken", signal.SIGTERM, step=9) == 75, job.log("broken")
    assert "resuming from step 6" in job.log("broken")
    _assert_stopped_and_saved(job, "broken", 9)
    job.finish("broken").assert_ended_as_unbroken("broken")


def _assert_stopped_and_saved(job, name, after):
    step = int(re.findall(r"stopped by SIGTERM; step (\d+) is saved", job.log(name))[-1])
    assert step >= after
    assert str(step) in job.saved(name)
    return step


def _wait(condition, process, seconds=300.0):
    """Returns when the condition holds or the process has ended; whether the latter.

    The limit is for what hangs: a busy machine may be slow.
    """
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None:
            return True
        assert time.monotonic() < end
        time.sleep(0.001)
    return False


def _wait_for_step(job, name, step, process):
    done = _wait(lambda: any(n.isdigit() and int(n) >= step for n in job.saved(name)), process)
    assert not done, job.log(name)


@pytest.mark.long
def test_a_run_killed_at_a_dozen_moments_ends_bit_for_bit_as_an_unbroken_one(job):
    moments = random.Random(0)
    for _ in range(6):
        # In a save: some steps after the newest.
        step = max((int(n) for n in job.saved("killed") if n.isdigit()), default=0)
        step += moments.randint(1, 3)
        assert job.run_until("killed", signal.SIGKILL, step) == -signal.SIGKILL, job.log("killed")
        assert str(step) not in job.saved("killed")
        assert any("tmp" in name for name in job.saved("killed"))
        # Anywhere, from the import on.
        said = len(job.log("killed"))
        process = job.start("killed")
        ended = _wait(lambda said=said: len(job.log("killed")) > said, process)
        assert not ended, job.log("killed")
        time.sleep(moments.random())
        process.kill()
        assert process.wait() in (0, -signal.SIGKILL), job.log("killed")
    job.finish("killed").assert_ended_as_unbroken("killed")


@pytest.mark.long
def test_sigterm_saves_a_step_that_was_not_to_be_saved_and_ends_with_its_own_code(job):
    for last in (5, 20):
        process = job.start("asked", **{"train.save_every": 0})
        _wait_for_step(job, "asked", last, process)
        process.terminate()
        assert process.wait() == 75, job.log("asked")
        _assert_stopped_and_saved(job, "asked", last)
    job.finish("asked").assert_ended_as_unbroken("asked")


@pytest.mark.long
def test_a_second_run_in_one_workdir_is_refused_and_the_first_goes_on(job):
    first = job.start("shared")
    _wait_for_step(job, "shared", 1, first)
    second = subprocess.run(first.args, env=job.environment, capture_output=True, text=True)
    assert second.returncode == 2
    (line,) = second.stderr.strip().split("\n")
    assert f"shared is in use by process {first.pid} on " in line
    assert first.wait() == 0, job.log("shared")
    job.assert_ended_as_unbroken("shared")


def _numbers(rows):
    """What the rows of a run say, as one array."""
    return [[row[name] for name in sorted(row)] for row in rows]


@pytest.mark.long
def test_two_processes_of_four_devices_are_one_of_eight(job):
    fields = {"train.epochs": 4, "train.save_every": 0}
    assert job.start("eight", devices=8, **fields).wait() == 0, job.log("eight")
    for process in list(job.start_two("four_and_four", 4, **fields)):
        assert process.wait() == 0, job.log("four_and_four")
    np.testing.assert_allclose(
        _numbers(job.rows("four_and_four")), _numbers(job.rows("eight")), rtol=1e-5
    )
    queues = [_queue(job.root / name / "checkpoints" / "20") for name in ("eight", "four_and_four")]
    np.testing.assert_allclose(queues[0]["rows"], queues[1]["rows"], atol=1e-5)
    assert queues[0]["cursor"] == queues[1]["cursor"]
    # What is said once is said by one of them.
    assert job.log("four_and_four").count("| distilled, rrd+kd |") == 1


def _queue(step):
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.metadata(step / "state").item_metadata.tree
        wanted = {"memory": {"rrd": tree["memory"]["rrd"]}}
        restore_args = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        restored = checkpointer.restore(
            step / "state",
            args=ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True),
        )
    return restored["memory"]["rrd"]


@pytest.mark.long
def test_sigterm_to_one_of_two_processes_stops_both_and_one_goes_on_alone(job):
    processes = list(job.start_two("parted", 2, slurm=True, **{"train.save_every": 0}))
    _wait_for_step(job, "parted", 5, processes[0])
    processes[1].terminate()
    for process in processes:
        assert process.wait() == 75, job.log("parted")
    steps = re.findall(r"stopped by SIGTERM; step (\d+) is saved", job.log("parted"))
    assert len(set(steps)) == 1
    assert steps[0] in job.saved("parted")
    assert job.start("parted", devices=4).wait() == 0, job.log("parted")
    assert f"resuming from step {steps[0]}" in job.log("parted")
    rows, whole = job.rows("parted"), job.rows("whole")
    assert len(rows) == len(whole)
    for row, wanted in zip(rows[:2], whole[:2], strict=True):
        for name, value in wanted.items():
            # Rounding may turn a few of 797 test images; their losses it hardly moves.
            percent = name.split("/")[-1] in ("top1", "top5", "agreement")
            tolerance = {"abs": 0.5} if percent else {"rel": 1e-4}
            assert row[name] == pytest.approx(value, **tolerance), name


@pytest.mark.long
def test_of_two_processes_the_other_ends_when_one_is_killed(job):
    processes = list(job.start_two("widowed", 2, **{"train.epochs": 200}))
    _wait_for_step(job, "widowed", 5, processes[0])
    processes[1].kill()
    # JAX itself aborts a process that waits for another inside of it, after 100 silent seconds.
    code = processes[0].wait(timeout=150)
    assert code in (75, -signal.SIGABRT), job.log("widowed")
    if code == 75:
        assert "a device or another process was lost" in job.log("widowed")
        assert "Traceback" not in job.log("widowed")


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
    # Both write to one file, the pieces of a line between each other's.
    said = f"disagree: config.train.epochs is {job.epochs} in process 0, and 5 in process 1"
    assert job.log("different").count(said) == 2


@contextlib.contextmanager
def _disk(folder, size):
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]).returncode:
        pytest.skip("this machine does not let us mount a small disk")
    try:
        yield lambda options: subprocess.run(
            ["mount", "-o", f"remount,{options}", folder], check=True
        )
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.long
def test_a_full_or_read_only_disk_is_one_line_and_loses_nothing(job):
    checkpoint = job.root / "whole" / "checkpoints" / str(job.steps)
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
        job.finish("disk").assert_ended_as_unbroken("disk")
