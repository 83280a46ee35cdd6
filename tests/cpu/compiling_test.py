"""Compilation for a CPU: supported XLA options, nested traces and the compilation cache."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import library, parallel
from rrd_jax import networks as nets
from rrd_jax.cpu import compiling
from rrd_jax.evaluation import predictions
from tests import fresh


def test_this_version_of_xla_supports_the_options():
    assert compiling.options()
    assert jax.jit(jnp.negative, compiler_options=compiling.options())(1.0) == -1


def test_a_function_with_options_works_inside_all_transformations():
    function = compiling.jit(lambda x: x * x)
    assert function(3.0) == 9
    assert jax.jit(lambda: function(3.0))() == 9
    assert jax.jit(function)(3.0) == 9
    assert jax.grad(function)(3.0) == 6
    np.testing.assert_array_equal(jax.vmap(function)(jnp.arange(3.0)), [0, 1, 4])
    assert jax.eval_shape(function, 3.0).shape == ()
    assert jax.jvp(function, (3.0,), (1.0,))[1] == 6


@pytest.mark.long
def test_a_loaded_network_works_inside_jit():
    network = nets.create("resnet8", 4)
    variables = nets.init(network, jax.random.key(0), (16, 16, 3))
    loaded = library.Loaded(network, variables, "resnet8", 4)
    images = jax.random.normal(jax.random.key(1), (2, 16, 16, 3))
    expected = loaded(images).logits
    logits = jax.jit(lambda images: loaded(images).logits)(images)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
    assert jax.grad(lambda images: loaded(images).logits.sum())(images).shape == images.shape


_PROGRAM = """
import jax, jax.numpy as jnp
from rrd_jax.cpu import compiling
options = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), **options)
print(compiling.OnednnJit(convolve)(jnp.ones((8, 16, 16, 32)), jnp.ones((3, 3, 32, 32))).shape)
"""


# Serializing such a program crashes the process with a segmentation fault.
def test_a_program_with_onednn_is_not_written_to_the_compilation_cache(tmp_path):
    done = _run_with_cache(tmp_path, "-c", _PROGRAM)
    assert done.returncode == 0, done.stderr[-2000:]
    names = [path.name for path in tmp_path.iterdir()]
    assert names
    assert not [name for name in names if "convolve" in name or "lambda" in name]


def _run_with_cache(folder, *arguments):
    settings = {
        "JAX_COMPILATION_CACHE_DIR": str(folder),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # Enables oneDNN, as in a process of a user.
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )


def test_evaluation_in_bfloat16_equals_float32():
    """YNNPACK, which fuses convolutions with pooling and then returns NaN, must not be used."""
    mesh, shape = parallel.make_mesh(jax.devices()[:1]), (16, 32, 32, 3)
    images, labels = jax.random.normal(jax.random.key(1), shape), jnp.zeros(16, jnp.int32)
    variables = fresh.init(nets.create("resnet8", 4), shape[1:])
    losses = []
    for dtype in (jnp.bfloat16, jnp.float32):
        network = nets.create("resnet8", 4, dtype=dtype)
        predict = predictions.compile_predict(network, lambda images: images, mesh)
        losses.append(predict(variables, images, labels)["loss"])
    np.testing.assert_allclose(*losses, rtol=0.1, atol=0.1)
