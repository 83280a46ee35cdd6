"""The memory footprint of a compiled step and its description."""

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
    """A program with a temporary array [512, 512], and its arguments."""

    @jax.jit
    def work(state, images):
        product = jnp.sort(images @ images.T)
        return state + 1, jnp.sum(product @ images)

    arguments = {"state": {"a": jnp.ones((256, 64))}, "images": jnp.ones((512, 128))}
    return work.lower(arguments["state"]["a"], arguments["images"]).compile(), arguments


def test_the_footprint_equals_the_plan_of_xla(compiled):
    program, arguments = compiled
    memory = footprint.measure(program)
    assert memory.arguments == 4 * (256 * 64 + 512 * 128)
    assert memory.results >= 4 * 256 * 64
    assert memory.temporaries >= 4 * 512 * 512
    assert memory.peak == sum(memory)
    description = footprint.describe(program, arguments, 10**9, {})
    assert "memory per device" in description
    assert "state 0.07 MB, images 0.26 MB, activations " in description
    largest = footprint.temporaries(program)[0]
    assert largest.bytes >= 4 * 512 * 512
    assert "float32 512x512" in largest.description


def test_the_error_for_too_little_memory_names_large_arrays_and_helpful_fields(compiled):
    fields = {
        "state": ["a smaller queue"],
        "images": ["data.feed=streamed"],
        footprint.ACTIVATIONS: iter(["train.remat=all", "a smaller train.batch_size"]),
    }
    with pytest.raises(errors.InputError) as caught:
        footprint.describe(*compiled, 10**6, fields)
    message = str(caught.value)
    assert "\n" not in message
    assert " of 1.00 MB " in message
    assert "float32 512x512" in message
    # The fields of large parts are listed, largest first; the state is only a hundredth.
    assert message.endswith("train.remat=all, a smaller train.batch_size, data.feed=streamed")


def test_the_footprint_includes_the_scratch_memory_of_eigen():
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
    # Eigen packs a patch for each of 4 * 6 * 6 pixels, and the pixels.
    patches = 4 * (4 * 6 * 6) * (3 * 3 * 8 + 16)
    assert footprint.measure(program).libraries == patches
    sizes = {array.description: array.bytes for array in footprint.temporaries(program)}
    name = next(name for name in sizes if name.startswith("patches of a convolution"))
    assert sizes[name] == patches


def test_arrays_are_counted_per_device():
    mesh = parallel.make_mesh(jax.devices()[:8])
    replicated, split = np.zeros((16, 4), np.float32), np.zeros((64, 4), np.float32)
    tree = {
        "replicated": parallel.put(parallel.replicated(mesh), replicated),
        "split": parallel.put(parallel.split(mesh), split),
    }
    sizes = {array.description: array.bytes for array in footprint.argument_arrays(tree, "tree")}
    assert sizes == {"float32 16x4 of tree (replicated)": 256, "float32 8x4 of tree (split)": 128}


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.long
def test_a_run_logs_its_memory_and_is_refused_if_it_does_not_fit(
    tiny_teacher, tmp_path, monkeypatch, capsys
):
    fields = {"teacher.checkpoint": str(tiny_teacher), "train.epochs": 1}
    monkeypatch.setattr(parallel, "device_bytes", lambda mesh: 250_000)
    with pytest.raises(errors.InputError, match="memory per device: .* of 0.25 MB"):
        launch.run(launch.digits("smoke,tiny-tiny,rrd", **fields), tmp_path)
    monkeypatch.undo()
    launch.run(launch.digits("smoke,tiny-tiny,rrd", **fields), tmp_path)
    output = capsys.readouterr().out
    assert output.count("[distilled, rrd] memory per device: ") == 1


def _peak(**fields):
    defaults = {"train.batch_size": 64, "teacher.cache": "off", "objectives.rrd.queue_size": 4096}
    config = launch.digits("tiny-tiny,rrd", **defaults, **fields)
    return footprint.measure(compiled_step.prepare(config, examples=128).compiled).peak


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_suggested_fields_reduce_the_memory_of_a_step():
    default = _peak()
    assert _peak(**{"train.remat": "all"}) < default
    assert _peak(**{"train.accumulate": 4}) < 0.6 * default
    assert _peak(**{"objectives.rrd.chunk": 0}) > default


@pytest.mark.long
def test_the_estimated_memory_matches_the_measured_memory():
    case = json.dumps(["cifar100.py:resnet32x4-resnet8x4,rrd", {"train.batch_size": 128}, 3])
    # The process compiles with oneDNN if possible, as for users and unlike in other tests.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.cpu.step_memory", case],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parents[2],
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["estimated"] == pytest.approx(figures["measured"], rel=0.2)
    assert figures["libraries"] > 0
