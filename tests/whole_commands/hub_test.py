"""Whole commands with repositories of the Hugging Face Hub, and with trackers."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy

from rrd_jax.weights import to_torch
from tests.servers import hub as servers
from tests.weights.state_dicts_test import random_variables

_TEACHER = "mobilenetv3_small_100"
_CONFIG = f"--config=configs/digits.py:{_TEACHER}-resnet8,smoke,rrd+kd"


@pytest.fixture(scope="module")
def server():
    """The server with a teacher for the digits."""
    with servers.running() as started:
        weights = to_torch(_TEACHER, random_variables(_TEACHER, 10, (32, 32, 1)), layout="timm")
        # Random kernels amplify; these outputs are finite.
        weights = {name: v * 0.1 if v.ndim > 1 else v for name, v in weights.items()}
        images = {"input_size": [1, 32, 32], "mean": [0.5], "std": [0.5], "crop_pct": 1.0}
        config = {"architecture": _TEACHER, "num_classes": 10, "pretrained_cfg": images}
        files = {
            "config.json": json.dumps(config).encode(),
            "model.safetensors": safetensors.numpy.save(weights),
        }
        started.add("org/net", files)
        yield started


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config.teacher.checkpoint=hf-hub:org/none"], 2, "hf-hub:org/none does not exist"),
        (["--config.teacher.checkpoint=hf-hub:org/net@v9"], 2, "has no revision 'v9'"),
        (["--config.teacher.checkpoint=hf-hub:a/b/c"], 1, "not a valid name"),
        (["--config.data.name=hf-hub:org/none"], 2, "hf-hub:org/none does not exist"),
        (["--config.data.dir=hf-hub:org/none"], 1, "must be a path on this machine"),
        (["--config.report.to=wand"], 1, "unknown report.to 'wand'; did you mean 'wandb'"),
        (["--config.report.to=wandb,wandb"], 1, "names wandb twice"),
    ],
)
def test_repositories_and_trackers_that_do_not_exist_are_refused(
    commands, server, tmp_path, arguments, code, message
):
    env = servers.environment(server, tmp_path)
    outcome = commands.run(_CONFIG, f"--workdir={tmp_path}/run", *arguments, env=env)
    assert re.search(message, outcome.check_refused(code)), outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("module", "arguments", "env", "code", "message"),
    [
        ("rrd_jax.main", [_CONFIG, "--workdir=hf-hub:org/net"], {}, 1, "this machine"),
        ("rrd_jax.predict", ["--workdir=hf-hub:org/none", "x.png"], {}, 2, "does not exist"),
        (
            "rrd_jax.convert",
            ["--input=hf-hub:org/net", "--output=x"],
            {"HF_HUB_OFFLINE": "1"},
            2,
            "not in the cache, and HF_HUB_OFFLINE is set",
        ),
        (
            "rrd_jax.convert",
            ["--input=hf-hub:org/net", "--output=x"],
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            2,
            "cannot be reached",
        ),
        ("rrd_jax.export", ["--workdir=x", "--format=onnx", "--push=me/x"], {}, 2, "--push is not"),
        ("rrd_jax.export", ["--workdir=x", "--format=hub", "--push=me/x"], {}, 2, "needs a token"),
    ],
)
def test_other_commands_refuse_what_the_hub_lacks(
    commands, server, tmp_path, module, arguments, env, code, message
):
    env = servers.environment(server, tmp_path) | env
    outcome = commands.run(*arguments, module=module, env=env)
    assert re.search(message, outcome.check_refused(code)), outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.long
def test_a_resumed_run_keeps_the_commit_of_its_teacher(commands, server, tmp_path):
    env = servers.environment(server, tmp_path / "home") | {"HF_TOKEN": servers.TOKEN}
    flags = [_CONFIG, "--config.teacher.checkpoint=hf-hub:org/net", f"--workdir={tmp_path}/run"]
    flags += ["--config.baseline=False"]
    assert commands.run(*flags, env=env).code == 0
    repository = server.repositories["model", "org/net"]
    commit = repository.refs["main"]
    weights = safetensors.numpy.load(repository.files()["model.safetensors"])
    changed = {name: np.asarray(value * 2) for name, value in weights.items()}
    repository.commit({"model.safetensors": safetensors.numpy.save(changed)})
    outcome = commands.run(*flags, "--config.train.epochs=3", env=env)
    assert outcome.code == 0, outcome.err
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"]["checkpoint"] == f"hf-hub:org/net@{commit}"
    assert not any(servers.TOKEN.encode() in file.read_bytes() for file in files)
