"""Whole commands with networks, optimizers and normalizations whose numbers would mislead."""

import json
import re

import numpy as np
import PIL.Image
import pytest

import rrd_jax

pytestmark = pytest.mark.long

_CONFIG = "--config=configs/digits.py:resnet8,smoke"
_NETS = "tests.networks.custom_nets"


@pytest.fixture(scope="module")
def free(commands, tmp_path_factory):
    """The workdir of a run of two epochs with a schedule-free optimizer, and an image beside it."""
    workdir = tmp_path_factory.mktemp("free") / "run"
    fields = ("optimizer.name=schedule_free_sgd", "optimizer.learning_rate=0.5", "train.epochs=2")
    flags = [f"--config.{field}" for field in fields]
    assert commands.run(_CONFIG, f"--workdir={workdir}", *flags).code == 0
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), np.uint8)
    PIL.Image.fromarray(pixels).save(workdir.parent / "image.png")
    return workdir, flags


@pytest.mark.parametrize(
    ("field", "code", "message"),
    [
        (f"student.model={_NETS}:Centered", 2, "logits of an image from the other images"),
        (f"student.model={_NETS}:Positioned", 2, "logits of an image .* from its position"),
        (f"student.model={_NETS}:Random", 2, "other logits when it is called again"),
        (f"student.model={_NETS}:NotFinite", 3, "the embedding of 24 of 24 images is not finite"),
        ("optimizer.options.mu_dtype=int8", 1, "for each parameter as int8"),
        ("optimizer.options.mu_dtype=bool", 1, "for each parameter as bool"),
        ("optimizer.name=schedule_free_sgd --config.student.freeze=stem", 1, "one learning rate"),
        ("data.std=(58.4,)", 1, "std.* is 58.4"),
    ],
)
def test_a_run_with_misleading_numbers_is_refused(commands, tmp_path, field, code, message):
    optimizer = ["--config.optimizer.name=adamw"] if "options" in field else []
    outcome = commands.run(
        _CONFIG, *optimizer, *f"--config.{field}".split(), f"--workdir={tmp_path / 'run'}"
    )
    assert re.search(message, outcome.check_refused(code)), outcome.err


@pytest.mark.parametrize("module", ["predict", "export"])
def test_normalizations_of_pixels_up_to_255_are_refused(commands, free, module):
    workdir, _ = free
    flags = ["--mean=77.8", "--std=95.9", f"--workdir={workdir}"]
    if module == "predict":
        flags.append(workdir.parent / "image.png")
    else:
        flags += ["--embed_preprocessing", "--format=stablehlo"]
    outcome = commands.run(*flags, module=f"rrd_jax.{module}")
    assert re.search(r"mean\[0\] is 77.8, .* from 0 to 1", outcome.check_refused(1, 2)), outcome.err
    assert not (workdir / "exports").exists()


def test_a_schedule_free_run_is_evaluated_with_its_average_everywhere(commands, free):
    workdir, flags = free
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    loss = [row["test/loss"] for row in rows if "test/loss" in row][-1]
    outcome = commands.run(_CONFIG, *flags, f"--workdir={workdir}", "--mode=eval")
    assert f"{loss:.4f}" in outcome.out
    average, trained = (rrd_jax.load(workdir, raw=raw) for raw in (False, True))
    kernels = [network.variables["params"]["fc"]["kernel"] for network in (average, trained)]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-4
