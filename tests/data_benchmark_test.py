import json
import subprocess
import sys

import pytest


@pytest.mark.long
def test_the_benchmark_runs_without_peers_and_lists_them(tmp_path):
    sizes = ("--images=8", "--batch_size=4", "--batches=2", "--warm_up=1", "--repeats=1")
    command = [sys.executable, "-m", "experiments.data_benchmark", f"--workdir={tmp_path}"]
    done = subprocess.run([*command, *sizes, "--cores=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no interpreter given: torchvision, tf.data, DALI" in done.stdout
    assert (tmp_path / "data.md").read_text().strip() in done.stdout
    results = json.loads((tmp_path / "data.json").read_text())
    (run,) = results["readers"]["500x375, rrd_jax, 1 cores"]
    assert run["wall"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cores=x"], "--cores has 'x'"),
        (["--cores=100000"], "--cores has '100000'"),
        (["--sizes=500"], "--sizes has '500', but wants sizes such as 500x375"),
        (["--images=8"], "--images=8 do not fill --batch_size"),
        (["--images=8", "--batch_size=4", "--tf_python=none"], "=none is no program"),
    ],
)
def test_invalid_flags_are_refused_in_one_line(commands, tmp_path, options, message):
    done = commands.run(f"--workdir={tmp_path}", *options, module="experiments.data_benchmark")
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().split("\n")) == 1
