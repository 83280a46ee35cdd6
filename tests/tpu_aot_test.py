"""The real step of a published pair, compiled for eight TPU chips that are not there."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is missing"),
    pytest.mark.xdist_group("tpu_aot"),
]

_NAME = "cifar100-vgg13-vgg8-rrd+kd-v5e-2x4"
_SPLIT = 50_000 * 32 * 32 * 3


def _run(*options):
    quick = ("JAX_DISABLE_MOST_OPTIMIZATIONS", "JAX_COMPILATION_CACHE_DIR")  # of tests
    return subprocess.run(
        [sys.executable, "experiments/tpu_aot.py", "--memory=0", *options],
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name not in quick},
    )


@pytest.fixture(scope="module")
def step(tmp_path_factory):
    """Figures, the program as it is given to the compiler, and as that leaves it."""
    folder = tmp_path_factory.mktemp("tpu_aot")
    # Of the published pairs, the one that is compiled soonest.
    config = "--config=configs/cifar100.py:vgg13-vgg8"
    done = _run(config, "--topologies=v5e:2x4", f"--workdir={folder}")
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert (folder / "tpu_aot.md").read_text().strip() in done.stdout
    found = json.loads((folder / "tpu_aot.json").read_text())["steps"][_NAME]
    given, left = ((folder / f"{_NAME}.{end}").read_text() for end in ("mlir", "hlo"))
    return found, given, left


def test_convolutions_are_bfloat16_and_statistics_softmaxes_and_losses_float32(step):
    _, given, _ = step

    def kinds(*operations):
        lines = re.findall(rf"stablehlo.(?:{'|'.join(operations)})\b.*", given)
        return set(re.findall(r"(bf16|f32)>", "\n".join(lines)))

    assert kinds("convolution") == {"bf16"}
    assert kinds("exponential", "log", "rsqrt", "reduce", "dot_general") == {"f32"}
    (signature,) = re.findall(r"func public @main.*", given)  # the state, and what is logged
    assert signature.count("bf16") == 10  # the kernels of a folded VGG13
    assert "f32" in signature


def test_the_memory_stays_where_it_is_and_so_do_similarities(step):
    found, _, _ = step
    arrays = {a for each in found["collectives"].values() for arrays in each for a in arrays}
    assert "f32[64,128]" in arrays  # the embeddings are gathered
    sizes = {int(n) for array in arrays for n in re.findall(r"\d+", array.split("[")[1])}
    assert not sizes & {16384, 16384 // 8}


def test_a_step_copies_nothing_as_large_as_the_resident_split(step):
    found, _, left = step
    assert _SPLIT < found["bytes"]["arguments"] < 2 * _SPLIT
    assert found["bytes"]["temporaries"] < _SPLIT / 10
    assert found["bytes"]["peak"] < 16e9
    assert "u8[50000,3072]" in left
    assert "u8[50000,32,32,3]" not in left


def test_flops_are_about_those_of_the_networks(step):
    flops = step[0]["flops"]
    # XLA leaves out products with the padding around images, half of them where images are small.
    assert 0.5 * flops["counted"] < flops["xla"] < 1.2 * flops["counted"]


def test_programs_are_silent_about_a_libtpu_that_finds_no_chip():
    own = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    own["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # while another process holds it, it is silent anyway
    program = "import jax; from rrd_jax import cli; cli.guard(lambda: print(jax.devices()))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=own
    )
    assert "Device" in done.stdout
    assert not done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--topologies=v5e:2x3x4"], "no topology 'v5e:2x3x4'"),
        (["--config=configs/cifar100.py:vgg8"], "'configs/cifar100.py:vgg8' must have one teacher"),
        (["--config=configs/digits.py"], "unknown data set 'digits'"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(tmp_path, options, message):
    done = _run("--topologies=v5e:2x4", *options, f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1
