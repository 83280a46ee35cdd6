"""Launch files of cloud/: linters, and the handling of preempted machines.

`tpu_vm.sh` runs with a fake gcloud program. xpk and SkyPilot check their files if installed.
"""

import os
import pathlib
import re
import subprocess
import textwrap

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_CLOUD = _ROOT / "cloud"
# Appends each command to a file. The replies are read from files, one line per call: the exit codes
# of a run, the outcome of a creation, and a false state of the TPU.
_GCLOUD = """\
    #!/usr/bin/env bash
    cd "$GCLOUD_FOLDER"
    printf '%s\\n' "$*" >> commands
    next() { line=$(head -n 1 "$1"); sed -i 1d "$1"; echo "$line"; }
    case "$*" in
      *describe*) { next answers; cat state || echo "ERROR: NOT_FOUND: none"; } | grep -m 1 . ;;
      *create*) [ "$(next creations)" = yes ] && echo READY > state ;;
      *delete*) rm state ;;
      *"pip install"*) [ ! -e broken ] ;;
      *rrd_jax.main*--config*)
        end=$(next ends)
        [ "$end" = taken ] && echo PREEMPTED > state && exit 255
        for code in $end; do echo "[worker] rrd_jax: ended with $code"; done ;;
    esac
"""


@pytest.fixture
def tpu_vm(tmp_path):
    """A function that runs tpu_vm.sh with a fake cloud; returns the process and its commands."""
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(textwrap.dedent(_GCLOUD))
    program.chmod(0o755)
    env = os.environ | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "GCLOUD_FOLDER": str(tmp_path),
        **{"PROJECT": "p", "ZONE": "z", "NAME": "n", "TYPE": "t", "VERSION": "v", "WAIT": "0"},
    }

    def run(*arguments, ends=(), creations=("yes",), answers=(), broken=False, **variables):
        lists = {"ends": ends, "creations": creations, "answers": answers, "commands": ()}
        for name, lines in lists.items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        if broken:
            (tmp_path / "broken").touch()
        command = ["bash", str(_CLOUD / "tpu_vm.sh"), *arguments]
        process = subprocess.run(
            command, capture_output=True, text=True, env=env | variables, timeout=60, check=False
        )
        return process, (tmp_path / "commands").read_text().splitlines()

    return run


def _verbs(commands):
    """Yields the kinds of commands, such as create, scp and run, without those of installations."""
    for command in commands:
        verb = command.split()[3]
        if verb != "ssh":
            yield verb
        elif "rrd_jax.main --" in command:
            yield "run"
        elif "pkill" in command:
            yield "stop"


def test_a_preempted_tpu_is_created_again_and_the_run_resumes(tpu_vm):
    process, commands = tpu_vm(
        "keep",
        "--config=c.py",
        ends=["75 134", "taken", "75 taken", "0 0"],
        creations=["no", "yes", "yes"],
        answers=["", "", "ERROR: UNAVAILABLE", "CREATING"],
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("resumes from its last checkpoint") == 3
    run = ["scp", "run"]
    # The first creation fails.
    expected = ["describe", "create"]
    expected += ["describe", "create", *run, "stop"]
    # gcloud fails, and then the TPU is not ready yet.
    expected += ["describe", "describe"]
    expected += ["describe", *run, "stop", "describe", "delete", "create", *run, "stop"]
    assert list(_verbs(commands)) == [*expected, "describe", *run]


def test_a_failing_installation_ends_with_a_note_about_the_tpu(tpu_vm):
    process, commands = tpu_vm("keep", "--config=c.py", broken=True)
    assert process.returncode == 1
    assert "the TPU still exists" in process.stderr
    assert list(_verbs(commands)) == ["describe", "create", *["scp", "describe"] * 2, "scp"]


@pytest.mark.parametrize(("end", "code"), [("0 1", 1), ("2 75", 2), ("3 3", 3), ("75 70", 70)])
def test_a_run_that_ends_with_an_error_is_not_repeated(tpu_vm, end, code):
    process, commands = tpu_vm("keep", "--config=c.py", ends=[end, "0"])
    assert process.returncode == code
    assert list(_verbs(commands)).count("run") == 1


def test_commands_name_the_project_and_zone_and_quote_flags(tpu_vm):
    _, (command,) = tpu_vm("run", "--config=c.py", "--workdir=/mnt/a b", ends=["0"])
    assert r"-m rrd_jax.main --config=c.py --workdir=/mnt/a\ b ;" in command
    assert "--worker=all" in command
    assert command.endswith("--project=p --zone=z")
    _, (command,) = tpu_vm("create", SPOT="1")
    assert "create n --accelerator-type=t --version=v --spot --project" in command
    _, (command,) = tpu_vm("create", SERVICE_ACCOUNT="a@p")
    assert "--version=v --service-account=a@p --project" in command
    _, commands = tpu_vm("install", NFS="10.0.0.2:/share")
    assert any("mount -t nfs '10.0.0.2:/share' /mnt/shared" in command for command in commands)
    assert "--constraint requirements.lock -e '.[tpu,gcs]'" in commands[-1]
    process, commands = tpu_vm("create", TYPE="")
    assert (process.returncode, commands) == (2, [])
    assert "TYPE is not set" in process.stderr


def _task():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((_CLOUD / "skypilot.yaml").read_text())


@pytest.mark.parametrize(
    ("nodes", "flags"),
    [("1", ""), ("2", " --coordinator=10.0.0.1:1234 --processes=2 --process_id=1")],
)
def test_a_node_of_skypilot_joins_the_other_nodes(nodes, flags, tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    env = {
        **{"PATH": os.environ["PATH"], "FLAGS": "--config=c.py --mode=eval"},
        "WORKDIR": "gs://bucket/run",
        **{"SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_RANK": "1"},
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    }
    command = ["bash", "-euc", _task()["run"]]
    process = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    expected = f"-m rrd_jax.main --config=c.py --mode=eval --workdir=gs://bucket/run{flags}\n"
    assert (process.stdout, process.stderr) == (expected, "")


def test_shellcheck_accepts_the_scripts(program, tmp_path):
    task = _task()
    scripts = [_CLOUD / "tpu_vm.sh", _CLOUD / "xpk.sh"]
    for name in ("setup", "run"):
        scripts.append(tmp_path / f"{name}.sh")
        # FLAGS is split at spaces on purpose.
        scripts[-1].write_text(f"#!/bin/bash\n# shellcheck disable=SC2086\n{task[name]}")
    process = subprocess.run(
        [program("shellcheck"), *map(str, scripts)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout


@pytest.mark.long
def test_xpk_builds_a_workload_that_resumes_after_exit_code_75(program, tmp_path):
    program("xpk")
    manifest = tmp_path / "jobset.yaml"
    env = os.environ | {
        **{"PROJECT": "p", "ZONE": "us-west4-a", "CLUSTER": "c", "NAME": "r18"},
        **{"TYPE": "v5litepod-16", "IMAGE": "image", "DRY_RUN": "1", "MANIFEST": str(manifest)},
        # xpk stores settings of earlier calls in the home folder.
        "HOME": str(tmp_path),
    }
    command = ["bash", str(_CLOUD / "xpk.sh"), "--config=c.py", "--workdir=gs://bucket/a b"]
    process = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert process.returncode == 0, process.stdout + process.stderr
    text = manifest.read_text()
    assert r"(exec python -m rrd_jax.main --config=c.py --workdir=gs://bucket/a\ b) &" in text
    assert re.search(r"operator: NotIn\s+values: \[42,75,127,", text)
    assert "maxRestarts: 100" in text
    assert "terminationGracePeriodSeconds: 120" in text
    assert "completions: 4 " in text


@pytest.mark.long
def test_skypilot_accepts_the_task(program, tmp_path):
    sky = pathlib.Path(program("sky")).with_name("python")
    code = (
        "import sky, yaml;"
        f"config = yaml.safe_load(open('{_CLOUD / 'skypilot.yaml'}'));"
        "task = sky.Task.from_yaml_config(config, [('WORKDIR', 'gs://bucket/run')]);"
        "(resources,) = task.resources; print(resources.use_spot, resources.job_recovery)"
    )
    env = os.environ | {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    env.pop("PYTHONPATH", None)
    process = subprocess.run([str(sky), "-c", code], capture_output=True, text=True, env=env)
    assert process.stdout.startswith("True "), process.stderr
    assert "'recover_on_exit_codes': [75, 134]" in process.stdout
