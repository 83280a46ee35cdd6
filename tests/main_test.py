"""Flags of the training command: messages, exit codes, and fields of the config."""

import json
import subprocess
import sys

import pytest


def _run(*arguments, cwd=None, program="rrd_jax.main"):
    return subprocess.run(
        [sys.executable, "-m", program, *arguments], capture_output=True, text=True, cwd=cwd
    )


_DIGITS = "--config=configs/digits.py"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 1, "--config is missing"),
        (["--config=configs/nope.py"], 1, "configs/nope.py"),
        (["--confg=x"], 1, "Did you mean: config"),
        ([_DIGITS, "stray"], 1, "unexpected argument 'stray'"),
        (
            [_DIGITS, "--config.optimizer.learnin_rate=1"],
            1,
            "did you mean 'optimizer.lea",
        ),
        ([_DIGITS, "--config.objectives.kd.tau=1"], 1, "kd.tau'; known: standardize"),
        ([_DIGITS + ":resnet20-resnet9"], 1, "invalid config option 'resnet20-resnet9'"),
        ([_DIGITS + ":rrdd"], 1, "did you mean 'rrd'"),
        ([_DIGITS, "--config.student.model=resnet9"], 1, "did you mean 'resnet8'"),
        ([_DIGITS, "--config.objectives.kd.temperature=0"], 1, "temperature is 0"),
        ([_DIGITS, "--processes=-1"], 1, "processes"),
        ([_DIGITS, "--processes=2"], 1, "add --coordinator=HOST:PORT"),
        ([_DIGITS, "--coordinator=here", "--processes=2"], 1, "set HOST:PORT"),
        (
            [_DIGITS, "--coordinator=a:1", "--processes=2", "--process_id=2"],
            1,
            "set --process_id from 0 to 1",
        ),
    ],
)
def test_invalid_input_gives_one_line_and_an_exit_code(
    commands, arguments, code, message, tmp_path
):
    outcome = commands.run(*arguments, f"--workdir={tmp_path / 'run'}")
    assert outcome.code == code
    lines = outcome.err.strip().split("\n")
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_field_set_on_the_command_line_is_used_and_saved(tmp_path):
    process = _run(
        f"{_DIGITS}:smoke,resnet8,ce",
        "--config.optimizer.learning_rate=0.01",
        "--config.train.epochs=1",
        f"--workdir={tmp_path}",
    )
    assert process.returncode == 0, process.stderr
    assert "lr 0.01" in process.stdout
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["optimizer"]["learning_rate"] == 0.01
    assert json.loads((tmp_path / "results.json").read_text())[0]["model"] == "resnet8"
