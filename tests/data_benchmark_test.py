import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_the_benchmark_runs_without_peers_and_lists_them(tmp_path):
    sizes = ("--images=8", "--batch_size=4", "--batches=2", "--warm_up=1", "--repeats=1")
    command = [sys.executable, "-m", "experiments.data_benchmark", f"--workdir={tmp_path}"]
    process = subprocess.run([*command, *sizes, "--cores=1"], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "no interpreter was set: torchvision, tf.data, DALI" in process.stdout
    assert (tmp_path / "data.md").read_text().strip() in process.stdout
    results = json.loads((tmp_path / "data.json").read_text())
    (run,) = results["readers"]["500x375, rrd_jax, 1 cores"]
    assert run["wall"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cores=x"], "--cores has 'x'"),
        (["--cores=100000"], "--cores has '100000'"),
        (["--sizes=500"], "--sizes has '500'; use WIDTHxHEIGHT, such as 500x375"),
        (["--images=8"], "--images=8 is less than --batch_size=64"),
        (["--images=8", "--batch_size=4", "--tf_python=none"], "=none is not a program"),
    ],
)
def test_invalid_flags_are_refused_in_one_line(commands, tmp_path, options, message):
    process = commands.run(f"--workdir={tmp_path}", *options, module="experiments.data_benchmark")
    assert process.code == 2
    assert message in process.err
    assert len(process.err.strip().split("\n")) == 1
