"""Profiles of train steps: the kinds, the operations and the times of instructions."""

import collections
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from experiments.profile import (
    compiled_step,
    figures,
    kinds,
    measuring,
    report,
    timeline,
)
from experiments.profile.timeline import Event
from rrd_jax import networks
from rrd_jax.cpu import hlo
from tests import launch
from tests.conftest import use_one_device

pytestmark = pytest.mark.long

# A shortened step in the form that XLA writes on a CPU: a convolution and its gradients, a call of
# oneDNN, a fusion of several operations, and a loop. The kernel's gradient has no name.
_TEXT = r"""
HloModule jit_step, is_scheduled=true

%fused_teacher (param_0: f32[8,32,32,4], param_1: f32[3,3,4,6]) -> f32[8,6] {
  %param_0 = f32[8,32,32,4]{3,2,1,0} parameter(0)
  %param_1 = f32[3,3,4,6]{3,2,1,0} parameter(1)
  %convolution.9 = f32[8,32,32,6]{3,2,1,0} convolution(%param_0, %param_1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/teacher/conv1/conv_general_dilated"}
  %convolution.8 = f32[8,32,32,6]{3,2,1,0} convolution(%param_0, %param_1), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/teacher/conv2/conv_general_dilated"}
  %add.1 = f32[8,32,32,6]{3,2,1,0} add(%convolution.9, %convolution.8)
  %constant.1 = f32[] constant(0)
  ROOT %reduce.1 = f32[8,6]{1,0} reduce(%add.1, %constant.1), dimensions={1,2}, to_apply=%sum, metadata={op_name="jit(step)/teacher/reduce_sum"}
}

%fused_kernel (param_0.1: f32[4,32,32,8], param_1.1: f32[16,16,8,6]) -> f32[4,3,3,6] {
  %param_0.1 = f32[4,32,32,8]{3,2,1,0} parameter(0)
  %param_1.1 = f32[16,16,8,6]{3,2,1,0} parameter(1)
  ROOT %convolution.7 = f32[4,3,3,6]{3,2,1,0} convolution(%param_0.1, %param_1.1), window={size=16x16 pad=1_0x1_0 rhs_dilate=2x2}, dim_labels=b01f_01io->b01f
}

%fused_update (param_0.2: f32[3,3,4,6], param_1.2: f32[4,3,3,6]) -> f32[3,3,4,6] {
  %param_0.2 = f32[3,3,4,6]{3,2,1,0} parameter(0)
  %param_1.2 = f32[4,3,3,6]{3,2,1,0} parameter(1)
  %transpose.3 = f32[3,3,4,6]{2,1,3,0} transpose(%param_1.2), dimensions={1,2,0,3}, metadata={op_name="jit(step)/transpose(jvp(student))/conv1/conv_general_dilated"}
  ROOT %add.2 = f32[3,3,4,6]{3,2,1,0} add(%param_0.2, %transpose.3), metadata={op_name="jit(step)/update/add"}
}

%body (state: (s32[], f32[8,6])) -> (s32[], f32[8,6]) {
  %state = (s32[], f32[8,6]{1,0}) parameter(0)
  %value = f32[8,6]{1,0} get-tuple-element(%state), index=1
  %inner = f32[8,6]{1,0} negate(%value), metadata={op_name="jit(step)/jvp(objective_rrd)/while/body/neg"}
  ROOT %tuple.2 = (s32[], f32[8,6]{1,0}) tuple(%value, %inner)
}

ENTRY %main (x: f32[8,32,32,4], k: f32[3,3,4,6], turned: f32[4,32,32,8], g: f32[8,16,16,6], h: f32[16,16,8,6], w: f32[6,10]) -> f32[8,32,32,4] {
  %x = f32[8,32,32,4]{3,2,1,0} parameter(0)
  %k = f32[3,3,4,6]{3,2,1,0} parameter(1)
  %turned = f32[4,32,32,8]{3,2,1,0} parameter(2)
  %g = f32[8,16,16,6]{3,2,1,0} parameter(3)
  %h = f32[16,16,8,6]{3,2,1,0} parameter(4)
  %w = f32[6,10]{1,0} parameter(5)
  %ynn_fusion = f32[8,6]{1,0} fusion(%x, %k), kind=kCustom, calls=%fused_teacher, metadata={op_name="jit(step)/teacher/reduce_sum"}, backend_config={"fusion_config":{"kind":"__ynn_fusion"}}
  %forward = f32[8,16,16,6]{3,2,1,0} convolution(%x, %k), window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_01io->b01f, metadata={op_name="jit(step)/jvp(student)/conv1/conv_general_dilated"}
  %of_images = f32[8,32,32,4]{3,2,1,0} convolution(%g, %k), window={size=3x3 pad=1_2x1_2 lhs_dilate=2x2}, dim_labels=b01f_01oi->b01f, metadata={op_name="jit(step)/transpose(jvp(student))/conv1/conv_general_dilated"}
  %of_kernel = f32[4,3,3,6]{3,2,1,0} fusion(%turned, %h), kind=kCustom, calls=%fused_kernel, backend_config={"fusion_config":{"kind":"__ynn_fusion"}}
  %updated = f32[3,3,4,6]{3,2,1,0} fusion(%k, %of_kernel), kind=kLoop, calls=%fused_update, metadata={op_name="jit(step)/update/add"}
  %onednn = (f32[8,16,16,6]{3,2,1,0}, u8[123]{0}) custom-call(%x, %k), custom_call_target="__onednn$convolution", metadata={op_name="jit(step)/teacher/conv3/conv_general_dilated"}, backend_config={"onednn_conv_config":{"feature_groups":"1","input":{"data":{"batch_dim":"0","feature_dim":"3","spatial_dims":["1","2"]}},"kernel":{"filter":{"input_feature_dim":"2","output_feature_dim":"3","spatial_dims":["0","1"]}},"output":{"data":{"batch_dim":"0","feature_dim":"3","spatial_dims":["1","2"]}},"window":{"pad_left":["1","1"],"pad_right":["1","1"],"size":[],"strides":["2","2"],"window_dilations":["1","1"]}},"outer_dimension_partitions":[]}
  %logits = f32[8,10]{1,0} dot(%ynn_fusion, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(step)/jvp(student)/fc/dot_general"}
  %matmul = (f32[8,10]{1,0}, u8[7]{0}) custom-call(%ynn_fusion, %w), custom_call_target="__onednn$matmul", metadata={op_name="jit(step)/jvp(objective_rrd)/dot_general"}
  %one = s32[] constant(1)
  %start = (s32[], f32[8,6]{1,0}) tuple(%one, %ynn_fusion)
  %while = (s32[], f32[8,6]{1,0}) while(%start), condition=%always, body=%body, metadata={op_name="jit(step)/jvp(objective_rrd)/while"}
  ROOT %copy.1 = f32[8,32,32,4]{0,3,2,1} copy(%of_images), metadata={op_name="jit(step)/input/transpose"}
}
"""  # noqa: E501
_FORWARD = 2 * 8 * 16 * 16 * 6 * 3 * 3 * 4


@pytest.fixture(scope="module")
def entries():
    return kinds.classify(hlo.parse(_TEXT))


def test_a_convolution_and_its_gradients_have_equal_operations_in_all_libraries(entries):
    for name, direction in [
        ("forward", "forward"),
        ("onednn", "forward"),
        ("of_images", "gradient of images"),
        ("of_kernel", "gradient of kernel"),
    ]:
        entry = entries[name]
        assert (entry.kind, entry.direction) == (kinds.CONVOLUTIONS, direction)
        assert entry.label == "3x3, 4 to 6 channels, 16x16 positions, stride 2"
        assert entry.flops == _FORWARD


def test_a_gradient_without_a_name_is_named_after_its_readers(entries):
    assert "conv1/conv_general_dilated" in entries["of_kernel"].op_name
    assert (entries["of_kernel"].part, entries["of_kernel"].backward) == ("student", True)
    assert entries["updated"].part == "update"


def test_a_fusion_has_the_kind_of_its_most_expensive_operation(entries):
    fusion = entries["ynn_fusion"]
    assert (fusion.kind, fusion.part, fusion.count) == (kinds.CONVOLUTIONS, "teacher", 2)
    assert fusion.label == "2 in one fusion"
    assert fusion.flops == 2 * (2 * 8 * 32 * 32 * 6 * 3 * 3 * 4)


def test_the_operations_of_products_are_counted(entries):
    assert (entries["logits"].kind, entries["logits"].flops) == (kinds.PRODUCTS, 2 * 8 * 6 * 10)
    assert entries["matmul"].flops == 2 * 8 * 6 * 10
    assert entries["matmul"].part == "objective rrd"


def test_loops_are_not_counted_as_work(entries):
    assert [name for name, entry in entries.items() if entry.is_runner] == ["while"]
    assert (entries["copy.1"].kind, entries["copy.1"].part) == (kinds.COPIES, "input")


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_of_jax_have_the_operations_of_the_formula(stride, groups):
    def loss(images, kernel):
        with jax.named_scope("student"):
            output = jax.lax.conv_general_dilated(
                images, kernel, (stride, stride), [(1, 1), (1, 1)],
                dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
            )  # fmt: skip
        return jnp.sum(output**2)

    shapes = [(2, 12, 12, 8), (3, 3, 8 // groups, 16)]
    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(*arrays)
    written = hlo.parse(lowered.as_text("hlo", debug_info=True))
    positions = (12 - 1) // stride + 1
    for parsed in (written, hlo.parse(lowered.compile().as_text())):
        main = [i for i in parsed.instructions.values() if i.opcode == "convolution"]
        classified = kinds.classify(parsed, written)
        described = {classified[i.name].direction: classified[i.name].flops for i in main}
        assert set(described) == {"forward", "gradient of images", "gradient of kernel"}
        assert set(described.values()) == {2 * 2 * positions**2 * 3 * 3 * (8 // groups) * 16}


def test_instructions_that_run_together_share_the_time():
    events = [Event("a", 0, 10), Event("b", 5, 10), Event("loop", 0, 30), Event("c", 20, 25)]
    assert timeline.shares(events, {"loop"}) == {"a": 7.5, "b": 2.5, "c": 5, "loop": 15}
    assert timeline.shares([Event("a", 0, 2), Event("a", 1, 3)], ()) == {"a": 3}
    merged = timeline.merge([events, [Event("a", 100, 110)]], {"loop"})
    assert merged.seconds["a"] == pytest.approx(17.5e-9 / 2)
    assert merged.window == pytest.approx(40e-9 / 2)


def test_the_slowest_shape_comes_first_with_its_share_of_the_peak(entries):
    seconds = {"forward": 0.002, "of_images": 0.004, "unheard": 0.001, "updated": 0.5}
    times = timeline.Timeline(seconds, dict.fromkeys(seconds, 2), 0.6)
    profile = figures.collect(entries, times, 2, {"f32": 2 * _FORWARD / 0.002})
    worst = profile["groups"][0]
    assert worst["direction"] == "gradient of images"
    assert worst["of_peak"] == pytest.approx(0.5)
    assert sum(part["all"] for part in profile["parts"]) + profile["idle"] == pytest.approx(300)
    assert {part["what"] for part in profile["parts"]} >= {"update", "not in the program's text"}


@pytest.fixture(scope="module")
def step(tiny_network):
    with pytest.MonkeyPatch.context() as patch:
        use_one_device(patch)
        # The CPU form of the first layer also multiplies zeros, and its operations would count.
        fields = {"train.batch_size": 64, "teacher.cache": "off", "fast_cpu": False}
        return compiled_step.prepare(launch.digits("tiny-tiny,rrd+kd", **fields))


def test_the_parts_of_a_real_step_add_up_to_the_measured_time(step, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "peak_rate", lambda dtype: 1e11)
    # Another program may use the processor during an attempt.
    for attempt in range(3):
        profile = measuring.profile(step, tmp_path / str(attempt), 10)
        total = profile["idle"] + sum(part["all"] for part in profile["parts"])
        assert total == pytest.approx(profile["window"])
        if total > 0.9 * profile["traced"]:
            break
    assert 0.9 * profile["traced"] < total <= profile["traced"]
    assert profile["idle"] < 0.5 * total
    measured = {part["what"] for part in profile["parts"] if part["all"]}
    objectives = {"objective rrd", "objective kd", "objective ce"}
    assert (
        measured
        >= {"convolutions", "matrix products", "update", "input, augmentation"} | objectives
    )
    assert not [row for row in profile["instructions"] if row["kind"] == figures.UNKNOWN.kind]
    table = report.format_profile(profile, rows=5)
    assert "tiny, ce + kd + rrd, teacher tiny, live; 64 images of 8x8x1 per step" in table


def test_the_operations_of_a_real_step_are_those_of_the_networks(step):
    compiled = hlo.parse(step.compiled.as_text())
    entries = kinds.classify(compiled, hlo.parse(step.lowered.as_text("hlo", debug_info=True)))
    totals = collections.Counter()
    # The profiler times the instructions of the last computation.
    for instruction in list(compiled.computations.values())[-1]:
        entry = entries[instruction.name]
        # The compiler may write 1x1 convolutions as products.
        if entry.part in ("teacher", "student"):
            totals[entry.part, entry.backward] += entry.flops
    # Multiplications of the first layer, which computes no gradient of the images.
    first = 8 * 8 * 3 * 3 * 8
    forward = 2 * 64 * networks.summarize(networks.create("tiny", 10), (8, 8, 1)).macs
    assert totals == {
        ("teacher", False): forward,
        ("student", False): forward,
        ("student", True): 2 * forward - 2 * 64 * first,
    }


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_step_with_a_cached_teacher_runs_on_random_embeddings():
    config = launch.digits("smoke,tiny-tiny,rrd", **{"teacher.cache": "on"})
    step = compiled_step.prepare(config, examples=16)
    assert step.about["teacher"] == "tiny, cached"
    assert jnp.isfinite(step()["loss"])


def test_the_command_prints_figures_as_json_and_writes_the_trace(tmp_path):
    command = [sys.executable, "-m", "experiments.profile"]
    flags = ["--config=configs/digits.py:smoke", "--config.train.batch_size=4", "--format=json"]
    process = subprocess.run(
        [*command, *flags, "--steps=2", f"--workdir={tmp_path}"], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    output = json.loads(process.stdout)
    assert output["about"]["batch"] == 4
    assert output["steps"] == 2
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert (tmp_path / "profile.md").read_text().startswith("resnet8, ")
    missing = subprocess.run(command, capture_output=True, text=True)
    assert missing.returncode == 1
    assert "--config is missing" in missing.stderr
