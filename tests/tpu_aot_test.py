"""Train steps of published pairs, lowered and compiled for TPUs without TPU hardware."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments.tpu_aot import steps, table
from rrd_jax import networks, objectives, parallel, relational_loss
from rrd_jax.objectives.batch import Batch

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing"),
    pytest.mark.xdist_group("tpu_aot"),
]

# The published pair with the shortest compilation.
_CONFIG = "configs/cifar100.py:vgg13-vgg8"
_NAME = "cifar100-vgg13-vgg8-rrd+kd-v5e-2x4"
_SPLIT = 50_000 * 32 * 32 * 3


def _run(*options):
    # Variables that tests set and users do not.
    test_variables = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_COMPILATION_CACHE_DIR")
    return subprocess.run(
        [sys.executable, "-m", "experiments.tpu_aot", "--memory=0", *options],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in test_variables},
    )


def test_convolutions_are_bfloat16_and_statistics_softmaxes_and_losses_are_float32():
    mesh = steps.make_mesh("v5e:2x4")
    step = steps.train_step(steps.parse_job(_CONFIG), mesh)
    program = step.lowered.as_text()

    def kinds(*operations):
        lines = re.findall(rf"stablehlo.(?:{'|'.join(operations)})\b.*", program)
        return set(re.findall(r"(bf16|f32)>", "\n".join(lines)))

    assert kinds("convolution") == {"bf16"}
    assert kinds("exponential", "log", "rsqrt", "reduce", "dot_general") == {"f32"}
    # The signature has the state and the logged values, and the 10 kernels of a folded VGG13.
    (signature,) = re.findall(r"func public @main.*", program)
    assert signature.count("bf16") == 10
    assert "f32" in signature
    assert "tensor<50000x3072xui8>" in signature


@pytest.fixture
def uncached():
    """JAX without its cache on disk, from which programs cannot be read without a TPU."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


# By default, similarities take six passes of bfloat16, and gradients three. Full float32 is used
# with precision="highest", at low temperatures and for a memory in chunks.
@pytest.mark.parametrize(
    ("options", "passes"),
    [
        ({}, ["high", "highest"]),
        ({"precision": "highest"}, ["highest", "highest"]),
        ({"chunk": 0}, ["highest", "highest"]),
    ],
)
@pytest.mark.usefixtures("uncached")
def test_a_tpu_program_has_the_passes_of_its_options(options, passes):
    mesh = steps.make_mesh("v5e:2x4", chips=1)
    rows = [jax.ShapeDtypeStruct((n, 128), jnp.float32) for n in (64, 64, 2048)]
    rows = steps._with_sharding(rows, parallel.replicated(mesh))
    options = {"temperature_student": 0.04, "temperature_teacher": 0.1} | options

    def total(*arrays):
        return jnp.sum(relational_loss(*arrays, **options))

    lowered = jax.jit(jax.grad(total)).lower(*rows)
    requested = re.findall(r"precision = \[(\w+), (\w+)\]", lowered.as_text())
    assert sorted(requested) == [(name.upper(), name.upper()) for name in passes]
    # To save time, only one case is compiled.
    if not options.keys() & {"precision", "chunk"}:
        compiled = re.findall(r"operand_precision=\{(\w+),(\w+)\}", lowered.compile().as_text())
        assert sorted(compiled) == [(name, name) for name in passes]


# A maximum over [B, K] is a separate pass. Without it, the norms of the rows must be bounded.
@pytest.mark.parametrize(
    ("options", "has_maximum"),
    [
        ({}, False),
        ({"memory": "momentum", "examples": 300}, False),
        ({"initial": "reference"}, True),
        ({"preset": "sharp_teacher", "memory": "momentum", "examples": 300}, True),
        ({"temperature_teacher": 0.015}, True),
    ],
)
def test_the_program_of_rrd_has_a_maximum_only_if_rows_may_be_long(options, has_maximum):
    mesh = steps.make_mesh("v5e:2x4", chips=1)
    rrd = objectives.create("rrd", **options | {"queue_size": 256})
    images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32)
    outputs = steps._outputs(networks.create("resnet8", 10), images)
    number = jax.ShapeDtypeStruct((8,), jnp.int32)
    batch = Batch(image=None, label=number, index=number)
    program = steps._lower_objective(rrd, outputs, outputs, batch, mesh)[0].as_text()
    assert "exponential" in program
    assert ("applies stablehlo.maximum" in program) == has_maximum


def test_a_collective_in_several_lines_is_counted_once():
    hlo = """
      %a = f32[64,128]{1,0} all-gather(%x), channel_id=1, replica_groups=[1,8]
      %b = (f32[512]{0}, bf16[3,3,8,8]{3,2,1,0}) all-reduce(%y, %z), channel_id=2
      %d = f32[16]{0} all-reduce(%u), channel_id=2
      %c = f32[2,8]{1,0} collective-permute-start(%w), channel_id=3
      %d = f32[2,8]{1,0} collective-permute(%w), channel_id=3
      %e = f32[2,8]{1,0} add(%c, %d)
    """
    collectives = table.collectives(hlo)
    assert collectives == {
        "all-gather": [["f32[64,128]"]],
        "all-reduce": [["f32[512]", "bf16[3,3,8,8]"], ["f32[16]"]],
        "collective-permute": [["f32[2,8]"]],
    }
    assert table._describe("all-reduce", collectives["all-reduce"]) == (
        "2 all-reduce, 0.0, f32[512]"
    )


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The figures and the compiled program of the step."""
    folder = tmp_path_factory.mktemp("tpu_aot")
    process = _run(f"--config={_CONFIG}", "--topologies=v5e:2x4", f"--workdir={folder}")
    print(process.stdout)
    assert process.returncode == 0, process.stderr
    assert not process.stderr
    assert (folder / "tpu_aot.md").read_text().strip() in process.stdout
    figures = json.loads((folder / "tpu_aot.json").read_text())["steps"][_NAME]
    assert (folder / f"{_NAME}.mlir").exists()
    return figures, (folder / f"{_NAME}.hlo").read_text()


@pytest.mark.long
def test_no_collective_transfers_the_memory_or_similarities(compiled):
    figures, _ = compiled
    arrays = {a for kind in figures["collectives"].values() for arrays in kind for a in arrays}
    # The embeddings are gathered.
    assert "f32[64,128]" in arrays
    sizes = {int(n) for array in arrays for n in re.findall(r"\d+", array.split("[")[1])}
    assert not sizes & {16384, 16384 // 8}


@pytest.mark.long
def test_a_step_does_not_copy_the_resident_split(compiled):
    figures, program = compiled
    assert _SPLIT < figures["bytes"]["arguments"] < 2 * _SPLIT
    assert figures["bytes"]["temporaries"] < _SPLIT / 10
    assert figures["bytes"]["peak"] < 16e9
    assert "u8[50000,3072]" in program
    assert "u8[50000,32,32,3]" not in program


@pytest.mark.long
def test_flops_approximate_the_counted_flops_of_the_networks(compiled):
    flops = compiled[0]["flops"]
    # XLA does not count products with padding, which are half of all products for small images.
    assert 0.5 * flops["counted"] < flops["xla"] < 1.2 * flops["counted"]
    assert compiled[0]["cycles"] > 10_000
    assert compiled[0]["moved"] > 1e6


@pytest.mark.long
def test_commands_print_no_warning_of_a_libtpu_without_chips():
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    # If another process uses libtpu, libtpu prints no warning in any case.
    environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    program = (
        "import jax; from rrd_jax.terminal import cli; cli.guard(lambda: print(jax.devices()))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert "Device" in process.stdout
    assert not process.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topologies=v5e:2x3x4"], "unknown topology 'v5e:2x3x4'"),
        (["--config=configs/cifar100.py:vgg8"], "'configs/cifar100.py:vgg8' must have one teacher"),
        (["--config=configs/digits.py"], "unknown data set 'digits'"),
    ],
)
@pytest.mark.long
def test_steps_that_cannot_be_compiled_give_one_line(tmp_path, options, message):
    process = _run("--topologies=v5e:2x4", *options, f"--workdir={tmp_path}")
    assert process.returncode == 2
    assert message in process.stderr
    assert len(process.stderr.strip().split("\n")) == 1
