"""The memory of a compiled step: what is said of it, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, footprint, parallel
from tests import launch


@pytest.fixture(scope="module")
def compiled():
    """A program that makes a [512, 512] on the way, and what it is given."""

    @jax.jit
    def work(state, images):
        product = jnp.sort(images @ images.T)
        return state + 1, jnp.sum(product @ images)

    given = {"the state": {"a": jnp.ones((256, 64))}, "the images": jnp.ones((512, 128))}
    return work.lower(given["the state"]["a"], given["the images"]).compile(), given


def test_its_parts_are_what_xla_plans(compiled):
    program, given = compiled
    found = footprint.of(program)
    assert found.arguments == 4 * (256 * 64 + 512 * 128)
    assert found.results >= 4 * 256 * 64
    assert found.temporaries >= 4 * 512 * 512
    assert found.peak == sum(found)
    said = footprint.described(program, given, there=10**9)
    assert "a step takes" in said
    assert "0.07 MB the state, 0.26 MB the images, " in said
    largest = footprint.temporaries(program)[0]
    assert largest.bytes >= 4 * 512 * 512
    assert "float32 512x512" in largest.what


def test_what_does_not_fit_names_the_largest_arrays_and_the_fields_that_help(compiled):
    with pytest.raises(errors.InputError) as caught:
        footprint.described(*compiled, there=10**6)
    said = str(caught.value)
    assert "\n" not in said
    for words in ("of each device's 1.00 MB", "float32 512x512", "train.batch_size", "remat"):
        assert words in said


def test_arrays_are_counted_as_devices_hold_them():
    mesh = parallel.make_mesh(jax.devices()[:8])
    whole, split = np.zeros((16, 4), np.float32), np.zeros((64, 4), np.float32)
    tree = {
        "whole": parallel.put(parallel.replicated(mesh), whole),
        "split": parallel.put(parallel.split(mesh), split),
    }
    sizes = {array.what: array.bytes for array in footprint.arrays(tree, "it")}
    assert sizes == {"float32 16x4 of it (whole)": 256, "float32 8x4 of it (split)": 128}


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_run_says_what_a_step_takes_and_does_not_begin_what_does_not_fit(
    tiny_teacher, tmp_path, monkeypatch, capsys
):
    fields = {"teacher.checkpoint": str(tiny_teacher), "train.epochs": 1}
    monkeypatch.setattr(parallel, "device_bytes", lambda mesh: 10_000)
    with pytest.raises(errors.InputError, match="a step takes .* of each device's 0.01 MB"):
        launch.run(launch.digits("smoke,tiny-tiny,rrd", **fields), tmp_path)
    monkeypatch.undo()
    launch.run(launch.digits("smoke,tiny-tiny,rrd", **fields), tmp_path)
    said = capsys.readouterr().out
    assert said.count("[distilled, rrd] a step takes ") == 1
