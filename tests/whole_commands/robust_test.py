"""Whole commands with paths that are no files of this machine, and with unusual surroundings."""

import os
import re
import subprocess
import sys

import pytest

from tests import launch

_CONFIG = "--config=configs/digits.py:resnet8-resnet8,smoke,rrd+kd"
_PREDICT = "rrd_jax.predict"


@pytest.fixture
def special(tmp_path, monkeypatch):
    """A folder with a pipe, which is also the home folder."""
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def _refused(commands, folder, arguments, code, message, module="rrd_jax.main"):
    arguments = [argument.replace("FOLDER", str(folder)) for argument in arguments]
    before = sorted(os.listdir(folder))
    outcome = commands.run(*arguments, module=module, env={"HOME": str(folder)}, seconds=60)
    assert re.search(message, outcome.check_refused(code)), outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert sorted(os.listdir(folder)) == before
    assert not [name for name in os.listdir(launch.CONFIGS.parent) if name.endswith(":")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=gs://B/run"], "--workdir=gs://B/run: .*bucket 'B' is not a valid name"),
        (["--workdir=memory://run"], "a URL .memory://run."),
        (["--workdir=FOLDER/pipe"], "--workdir=.*/pipe: a pipe"),
        (["--workdir=~nobody-here/x"], "unknown user"),
        (["--config.compilation_cache=s3://b"], "compilation_cache is 's3://b', a URL"),
        (["--config.data.class_names=FOLDER/pipe"], "data.class_names is .* a pipe"),
        (["--config.data.class_names=/dev/zero"], "data.class_names is '/dev/zero', a device"),
        (["--config.data.dir=https://host/x"], "data.dir is .* a URL"),
        (["--config.data.name=hf://datasets/x"], "data.name is .* a URL"),
        (["--config.teacher.checkpoint=https://x/y.pth"], "a URL .https://x/y.pth.*download"),
        (["--config.teacher.class_vectors=/dev/zero"], "teacher.class_vectors is .* a device"),
        (["--config.eval.labelled=FOLDER/pipe"], "eval.labelled is .* a pipe"),
        (["--flagfile=FOLDER/nothing"], "nothing"),
        (["--flagfile=/dev/zero"], "a device"),
        (["--config=FOLDER/pipe"], "a pipe"),
        (["--config=https://host/x.py"], "a URL"),
    ],
)
def test_a_path_that_is_no_file_of_this_machine_is_refused(commands, special, arguments, message):
    has_workdir = any(flag.startswith("--workdir") for flag in arguments)
    rest = [] if has_workdir else [f"--workdir={special}/run"]
    _refused(commands, special, [_CONFIG, *rest, *arguments], 1, message)


@pytest.mark.parametrize(
    ("module", "arguments", "code", "message"),
    [
        (_PREDICT, ["--workdir=FOLDER/pipe", "x.png"], 1, "a pipe"),
        (_PREDICT, ["--workdir=x", "--class_names=/dev/zero", "x.png"], 1, "a device"),
        (_PREDICT, ["--workdir=x", "https://host/x.png"], 1, "a URL"),
        (_PREDICT, ["--workdir=x", "/"], 2, "a system folder"),
        ("rrd_jax.data.prepare", ["--name=image_folder", "--manual_dir=/"], 2, "a system folder"),
        ("rrd_jax.convert", ["--input=FOLDER/pipe", "--output=x"], 1, "a pipe"),
        ("rrd_jax.convert", ["--input=x", "--output=gcs://b"], 1, "a URL"),
        ("experiments.study", ["--study=FOLDER/pipe", "--dry_run"], 1, "a pipe"),
        (
            "experiments.study",
            [
                _CONFIG.removesuffix(",rrd+kd"),
                "--methods=kd",
                "--set=teacher.checkpoint=w/{foo}.pth",
                "--dry_run",
            ],
            1,
            r"placeholder \{foo\}",
        ),
    ],
)
def test_paths_of_other_commands_are_refused(commands, special, module, arguments, code, message):
    _refused(commands, special, arguments, code, message, module=module)


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("JAX_DISABLE_JIT=1", "jax_disable_jit is True.*; unset JAX_DISABLE_JIT"),
        ("JAX_NUMPY_DTYPE_PROMOTION=strict", "jax_numpy_dtype_promotion is strict"),
        ("JAX_NO_TRACING=1", "jax_no_tracing is True"),
        ("JAX_TRANSFER_GUARD=disallow", "jax_transfer_guard is disallow"),
    ],
)
def test_settings_of_jax_with_which_nothing_is_computed_are_refused(variable, message, tmp_path):
    # The server of `commands` has imported JAX already.
    name, _, value = variable.partition("=")
    outcome = subprocess.run(
        [sys.executable, "-m", "rrd_jax.main", _CONFIG, f"--workdir={tmp_path}"],
        cwd=launch.CONFIGS.parent,
        env={**os.environ, name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 2
    assert re.fullmatch(f"error: {message}.*\n", outcome.stderr)


def test_an_image_that_no_network_can_read_is_refused(commands):
    flags = ("--model=resnet8", "--image_shape=100000,100000,3")
    outcome = commands.run(*flags, module="rrd_jax.networks")
    assert "height is 100000, but must be" in outcome.check_refused(1)


_CALLBACK = """
import jax
def fail(x):
    raise RuntimeError("first line\\nsecond line")
def mine(student, teacher, batch):
    jax.debug.callback(fail, student.logits.sum())
    return student.logits.sum(-1)
"""


def test_a_callback_that_fails_in_a_step_is_reported_with_its_traceback(commands, tmp_path):
    (tmp_path / "mine.py").write_text(_CALLBACK)
    objectives = "{'ce': {'weight': 1.0}, 'mine': {'factory': 'mine:mine'}}"
    outcome = commands.run(
        f"--config={launch.CONFIGS}/digits.py:resnet8-resnet8,smoke,kd",
        f"--config.objectives={objectives}",
        "--config.baseline=False",
        f"--workdir={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert outcome.code == 2
    expected = "error: a callback failed in a step:\nTraceback (most recent call last):\n  File "
    assert outcome.err.startswith(expected)
    assert outcome.err.endswith("in fail\nRuntimeError: first line\nsecond line\n")


def test_the_home_folder_is_expanded(commands, special):
    flags = ("--config.train.epochs=1", "--workdir=~/run")
    config = "--config=configs/digits.py:resnet8,smoke"
    outcome = commands.run(config, *flags, env={"HOME": str(special)})
    assert outcome.code == 0, outcome.err
    assert (special / "run" / "results.json").exists()
