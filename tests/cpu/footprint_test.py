"""The memory of a compiled step: what is said of it, and what does not fit."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.profile import compiled_step
from rrd_jax import errors, parallel
from rrd_jax.cpu import footprint
from tests import launch


@pytest.fixture(scope="module")
def compiled():
    """A program that makes a [512, 512] on the way, and what it is given."""

    @jax.jit
    def work(state, images):
        product = jnp.sort(images @ images.T)
        return state + 1, jnp.sum(product @ images)

    given = {"state": {"a": jnp.ones((256, 64))}, "images": jnp.ones((512, 128))}
    return work.lower(given["state"]["a"], given["images"]).compile(), given


def test_its_parts_are_what_xla_plans(compiled):
    program, given = compiled
    found = footprint.measure(program)
    assert found.arguments == 4 * (256 * 64 + 512 * 128)
    assert found.results >= 4 * 256 * 64
    assert found.temporaries >= 4 * 512 * 512
    assert found.peak == sum(found)
    said = footprint.describe(program, given, 10**9, {})
    assert "memory per device" in said
    assert "state 0.07 MB, images 0.26 MB, activations " in said
    largest = footprint.temporaries(program)[0]
    assert largest.bytes >= 4 * 512 * 512
    assert "float32 512x512" in largest.description


def test_what_does_not_fit_names_the_largest_arrays_and_the_fields_that_help(compiled):
    fields = {
        "state": ["a smaller queue"],
        "images": ["data.feed=streamed"],
        footprint.ACTIVATIONS: iter(["train.remat=all", "a smaller train.batch_size"]),
    }
    with pytest.raises(errors.InputError) as caught:
        footprint.describe(*compiled, 10**6, fields)
    said = str(caught.value)
    assert "\n" not in said
    assert " of 1.00 MB " in said
    assert "float32 512x512" in said
    # Of what is large, largest first; the state is a hundredth of it.
    assert said.endswith("train.remat=all, a smaller train.batch_size, data.feed=streamed")


def test_what_eigen_keeps_of_a_convolution_is_foretold_too():
    def gradient(kernel, images, cotangent):
        strided = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=(2, 2),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return jax.vjp(lambda images: strided(images, kernel), images)[1](cotangent)

    shapes = [(3, 3, 8, 16), (4, 12, 12, 8), (4, 6, 6, 16)]
    program = jax.jit(gradient).lower(*map(jnp.ones, shapes)).compile()
    # A patch for each of 4 * 6 * 6 pixels, and these pixels, packed.
    patches = 4 * (4 * 6 * 6) * (3 * 3 * 8 + 16)
    assert footprint.measure(program).libraries == patches
    most = {array.description: array.bytes for array in footprint.temporaries(program)}
    name = next(what for what in most if what.startswith("patches of a convolution"))
    assert most[name] == patches


def test_arrays_are_counted_as_devices_hold_them():
    mesh = parallel.make_mesh(jax.devices()[:8])
    whole, split = np.zeros((16, 4), np.float32), np.zeros((64, 4), np.float32)
    tree = {
        "whole": parallel.put(parallel.replicated(mesh), whole),
        "split": parallel.put(parallel.split(mesh), split),
    }
    sizes = {array.description: array.bytes for array in footprint.argument_arrays(tree, "it")}
    assert sizes == {"float32 16x4 of it (whole)": 256, "float32 8x4 of it (split)": 128}


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.long
def test_a_run_says_what_a_step_takes_and_does_not_begin_what_does_not_fit(
    tiny_teacher, tmp_path, monkeypatch, capsys
):
    fields = {"teacher.checkpoint": str(tiny_teacher), "train.epochs": 1}
    monkeypatch.setattr(parallel, "device_bytes", lambda mesh: 10_000)
    with pytest.raises(errors.InputError, match="memory per device: .* of 0.01 MB"):
        launch.run(launch.digits("smoke,tiny-tiny,rrd", **fields), tmp_path)
    monkeypatch.undo()
    launch.run(launch.digits("smoke,tiny-tiny,rrd", **fields), tmp_path)
    said = capsys.readouterr().out
    assert said.count("[distilled, rrd] memory per device: ") == 1


def _peak(**fields):
    usual = {"train.batch_size": 64, "teacher.cache": "off", "objectives.rrd.queue_size": 4096}
    config = launch.digits("tiny-tiny,rrd", **usual, **fields)
    return footprint.measure(compiled_step.prepare(config, examples=128).compiled).peak


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_with_a_named_field_a_step_takes_less():
    usual = _peak()
    assert _peak(**{"train.remat": "all"}) < usual
    assert _peak(**{"train.accumulate": 4}) < 0.6 * usual
    assert _peak(**{"objectives.rrd.chunk": 0}) > usual


@pytest.mark.long
def test_a_step_takes_what_is_foretold():
    case = json.dumps(["cifar100.py:resnet32x4-resnet8x4,rrd", {"train.batch_size": 128}, 3])
    # As a user's process compiles, with oneDNN where it can, not as tests do.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    found = subprocess.run(
        [sys.executable, "-m", "tests.cpu.step_memory", case],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parents[2],
    )
    figures = json.loads(found.stdout.splitlines()[-1])
    assert figures["estimated"] == pytest.approx(figures["measured"], rel=0.2)
    assert figures["libraries"] > 0
