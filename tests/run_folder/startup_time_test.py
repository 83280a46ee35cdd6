"""Time from the start of a command to its first training step."""

import json
import re
import subprocess
import sys
import time


def test_seconds_are_counted_from_the_start_of_the_process(monkeypatch):
    code = (
        "import time; time.sleep(0.5)\nfrom rrd_jax.run_folder import startup_time\n"
        "startup_time.begin()\n"
        "startup_time.phase('imports'); print(startup_time.end()['imports'])"
    )
    start = time.monotonic()
    seconds = subprocess.check_output([sys.executable, "-c", code], text=True)
    # The system measures the start of a process in hundredths of a second.
    assert 0.5 < float(seconds) < time.monotonic() - start + 0.02


def test_a_command_logs_the_time_to_its_first_step(commands, tmp_path):
    config = "--config=configs/digits.py:smoke,resnet8,ce"
    outcome = commands.run(config, f"--workdir={tmp_path}")
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in outcome.out.splitlines() if "first step" in line]
    phases = re.findall(r"(\w+) [\d.]+", line.partition(" s (")[2])
    assert phases == ["imports", "checks", "data", "state", "compiling", "step"]
    first, *later = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    total = float(re.search(r"step: ([\d.]+) s", line)[1])
    assert abs(first["start_seconds"] - total) < 0.06
    assert not [row for row in later if "start_seconds" in row]
