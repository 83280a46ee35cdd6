"""Launch files of cloud/: their own linters, and what they do when a machine is taken away.

`tpu_vm.sh` runs with a stand-in for gcloud, for no cloud is to be had in a test. xpk and SkyPilot
are asked where they are installed.
"""

import os
import pathlib
import re
import subprocess
import textwrap

import pytest

_ROOT = pathlib.Path(__file__).parent.parent
_CLOUD = _ROOT / "cloud"
# Keeps each command in a file. What it answers stands in files of its own, a line for each time:
# how a run ends, whether a creation succeeds, and what it says of the TPU instead of the truth.
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
    """Runs tpu_vm.sh with a cloud that does as it is told; returns its outcome and the commands."""
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(textwrap.dedent(_GCLOUD))
    program.chmod(0o755)
    env = os.environ | {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "GCLOUD_FOLDER": str(tmp_path),
        **{"PROJECT": "p", "ZONE": "z", "NAME": "n", "TYPE": "t", "VERSION": "v", "WAIT": "0"},
    }

    def run(*arguments, ends=(), creations=("yes",), answers=(), broken=False, **more):
        lists = {"ends": ends, "creations": creations, "answers": answers, "commands": ()}
        for name, lines in lists.items():
            (tmp_path / name).write_text("".join(f"{line}\n" for line in lines))
        if broken:
            (tmp_path / "broken").touch()
        command = ["bash", str(_CLOUD / "tpu_vm.sh"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, env=env | more, timeout=60, check=False
        )
        return done, (tmp_path / "commands").read_text().splitlines()

    return run


def _verbs(commands):
    """Such as create, scp, run: what was done, without what each install is made of."""
    for command in commands:
        verb = command.split()[3]
        if verb != "ssh":
            yield verb
        elif "rrd_jax.main --" in command:
            yield "run"
        elif "pkill" in command:
            yield "stop"


def test_a_tpu_that_is_taken_away_is_made_anew_and_the_run_goes_on(tpu_vm):
    done, commands = tpu_vm(
        "keep",
        "--config=c.py",
        ends=["75 75", "taken", "75 taken", "0 0"],
        creations=["no", "yes", "yes"],
        answers=["", "", "ERROR: UNAVAILABLE", "CREATING"],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resumes from its last checkpoint") == 3
    run = ["scp", "run"]
    wanted = ["describe", "create"]  # which fails
    wanted += ["describe", "create", *run, "stop"]
    wanted += ["describe", "describe"]  # gcloud does not know, and then it is not ready
    wanted += ["describe", *run, "stop", "describe", "delete", "create", *run, "stop"]
    assert list(_verbs(commands)) == [*wanted, "describe", *run]


def test_what_cannot_be_installed_holds_no_tpu_for_ever(tpu_vm):
    done, commands = tpu_vm("keep", "--config=c.py", broken=True)
    assert done.returncode == 1
    assert "the TPU still exists" in done.stderr
    assert list(_verbs(commands)) == ["describe", "create", *["scp", "describe"] * 2, "scp"]


@pytest.mark.parametrize(("end", "code"), [("0 1", 1), ("2 75", 2), ("3 3", 3), ("75 70", 70)])
def test_a_run_that_ends_in_a_mistake_is_not_tried_again(tpu_vm, end, code):
    done, commands = tpu_vm("keep", "--config=c.py", ends=[end, "0"])
    assert done.returncode == code
    assert list(_verbs(commands)).count("run") == 1


def test_the_commands_of_a_tpu_say_where_it_is_and_keep_flags_whole(tpu_vm):
    _, (command,) = tpu_vm("run", "--config=c.py", "--workdir=/mnt/a b", ends=["0"])
    assert r"-m rrd_jax.main --config=c.py --workdir=/mnt/a\ b ;" in command
    assert "--worker=all" in command
    assert command.endswith("--project=p --zone=z")
    _, (command,) = tpu_vm("create", SPOT="1")
    assert "create n --accelerator-type=t --version=v --spot" in command
    _, commands = tpu_vm("install", NFS="10.0.0.2:/share")
    assert any("mount -t nfs '10.0.0.2:/share' /mnt/shared" in command for command in commands)
    assert "--constraint requirements.lock -e '.[tpu]'" in commands[-1]
    done, commands = tpu_vm("create", TYPE="")
    assert (done.returncode, commands) == (2, [])
    assert "TYPE is not set" in done.stderr


def _task():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((_CLOUD / "skypilot.yaml").read_text())


@pytest.mark.parametrize(
    ("nodes", "flags"),
    [("1", ""), ("2", " --coordinator=10.0.0.1:1234 --processes=2 --process_id=1")],
)
def test_a_node_of_skypilot_joins_the_others(nodes, flags, tmp_path):
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    env = {
        **{"PATH": os.environ["PATH"], "FLAGS": "--config=c.py --mode=eval"},
        **{"SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_RANK": "1"},
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    }
    command = ["bash", "-euc", _task()["run"]]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    wanted = f"-m rrd_jax.main --config=c.py --mode=eval --workdir=/shared/runs/rrd-jax{flags}\n"
    assert (done.stdout, done.stderr) == (wanted, "")


def test_shellcheck_has_nothing_to_say(program, tmp_path):
    task = _task()
    scripts = [_CLOUD / "tpu_vm.sh", _CLOUD / "xpk.sh"]
    for name in ("setup", "run"):
        scripts.append(tmp_path / f"{name}.sh")
        # FLAGS is split at blanks, on purpose.
        scripts[-1].write_text(f"#!/bin/bash\n# shellcheck disable=SC2086\n{task[name]}")
    done = subprocess.run(
        [program("shellcheck"), *map(str, scripts)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_xpk_makes_a_workload_that_goes_on_after_75(program, tmp_path):
    program("xpk")
    manifest = tmp_path / "jobset.yaml"
    env = os.environ | {
        **{"PROJECT": "p", "ZONE": "us-west4-a", "CLUSTER": "c", "NAME": "r18"},
        **{"TYPE": "v5litepod-16", "IMAGE": "image", "DRY_RUN": "1", "MANIFEST": str(manifest)},
        "HOME": str(tmp_path),  # where xpk keeps what it was told before
    }
    command = ["bash", str(_CLOUD / "xpk.sh"), "--config=c.py", "--workdir=/shared/a b"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    text = manifest.read_text()
    assert r"(exec python -m rrd_jax.main --config=c.py --workdir=/shared/a\ b) &" in text
    assert re.search(r"operator: NotIn\s+values: \[42,75,127,", text)
    assert "maxRestarts: 100" in text
    assert "terminationGracePeriodSeconds: 120" in text
    assert "completions: 4 " in text


@pytest.mark.long
def test_skypilot_reads_its_task(program, tmp_path):
    sky = pathlib.Path(program("sky")).with_name("python")
    code = f"import sky; print(sky.Task.from_yaml('{_CLOUD / 'skypilot.yaml'}').volumes)"
    env = os.environ | {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run([str(sky), "-c", code], capture_output=True, text=True, env=env)
    assert done.stdout.strip() == "{'/shared': 'rrd-shared'}", done.stderr
