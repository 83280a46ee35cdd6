"""Custom networks given by import path, as teachers and students."""

import equinox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from rrd_jax import errors, networks
from rrd_jax.config import parse
from rrd_jax.networks import __main__ as program
from tests import launch

_NETS = "tests.networks.custom_nets"
_EQUINOX = "tests.networks.custom_equinox"
_SHAPE = (8, 8, 1)
_NAMES = [f"{_NETS}:{name}" for name in ("Mixer", "GroupNorm", "Norm", "functions")] + [
    f"{_EQUINOX}:{name}" for name in ("Stateful", "Plain")
]


def _name(value):
    return value.split(":")[1] if isinstance(value, str) else ""


def _config(student, teacher="tiny", method="rrd+kd", **fields):
    """Returns a config of configs/digits.py; "__" in a field name stands for a dot."""
    fields = {path.replace("__", "."): value for path, value in fields.items()}
    models = {"student.model": student, "teacher.model": teacher}
    return launch.digits(f"smoke,tiny-tiny,{method}", **models, **fields)


def _create(path, **options):
    return networks.create(path, 10, options=options, prefix="student.options.")


@pytest.mark.long
@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_copy_of_a_built_in_network_is_bit_identical(tmp_path):
    launch.run(_config("resnet8", "resnet8"), tmp_path / "built_in")
    launch.run(_config(f"{_NETS}:Copied", f"{_NETS}:resnet8"), tmp_path / "copy")
    for run, step in (("teacher", 3), (".", 6)):
        built_in, copy = (
            launch.digests(tmp_path / name / run, step) for name in ("built_in", "copy")
        )
        assert built_in == copy
    assert launch.rows(tmp_path / "built_in") == launch.rows(tmp_path / "copy")


@pytest.mark.usefixtures("one_device", "tiny_network")
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (f"{_NETS}:GroupNorm", {"train__ema": 0.9, "train__accumulate": 2}),
        (f"{_NETS}:Norm", {"student__options__width": 4, "train__ema": 0.9}),
        (f"{_EQUINOX}:Stateful", {"train__ema": 0.9}),
        (f"{_EQUINOX}:Averaged", {}),
        (f"{_EQUINOX}:Plain", {}),
    ],
    ids=_name,
)
@pytest.mark.long
def test_a_resumed_run_is_bit_identical(path, fields, tmp_path):
    config = _config(path, **fields)
    launch.run(config, tmp_path / "uninterrupted")
    launch.preempt(config, tmp_path / "stopped", step=4)
    launch.run(config, tmp_path / "stopped")
    assert launch.digests(tmp_path / "stopped", 6) == launch.digests(tmp_path / "uninterrupted", 6)
    assert launch.rows(tmp_path / "stopped") == launch.rows(tmp_path / "uninterrupted")


@pytest.mark.long
@pytest.mark.usefixtures("tiny_network")
def test_outputs_of_a_custom_teacher_can_be_cached_on_several_devices(tmp_path):
    path = f"{_NETS}:GroupNorm"
    config = _config("tiny", path, "rrd+kd", teacher__cache="on")
    launch.run(config, tmp_path / "cached")
    config.teacher.cache = "off"
    launch.run(config, tmp_path / "live")
    cached, live = (launch.rows(tmp_path / name)[-1] for name in ("cached", "live"))
    assert cached["train/loss/rrd"] == pytest.approx(live["train/loss/rrd"], rel=1e-5)
    assert cached["train/loss/kd"] == pytest.approx(live["train/loss/kd"], rel=1e-4)


@pytest.mark.usefixtures("tiny_network")
@pytest.mark.parametrize(
    ("path", "method", "side", "message"),
    [
        (f"{_NETS}:bare", "rrd", "student", "'rrd' reads student.embedding.*embedding_of"),
        (f"{_NETS}:Mixer", "fitnet", "student", "'fitnet' reads student.maps.*return maps"),
        (
            f"{_NETS}:bare",
            f"{_NETS}:compare_patches",
            "teacher",
            "reads teacher.patches.*options.patches_of",
        ),
        (f"{_NETS}:Mixer", "simkd", "teacher", "'simkd' reads teacher.head.*; return head in"),
        (f"{_NETS}:not_a_network", "kd", "student", "network '.*not_a_network' is of type list"),
    ],
)
def test_missing_outputs_are_refused_before_the_teacher_is_trained(
    path, method, side, message, tmp_path, capsys
):
    pair = (path, "tiny") if side == "student" else ("tiny", path)
    with pytest.raises(errors.InputError, match=message) as caught:
        launch.run(_config(*pair, method), tmp_path)
    assert "\n" not in str(caught.value)
    assert "[teacher]" not in capsys.readouterr().out


@pytest.mark.parametrize("path", _NAMES, ids=_name)
@pytest.mark.long
def test_only_training_of_networks_with_dropout_is_random(path):
    network = _create(path)
    variables = networks.init(network, jax.random.key(0), _SHAPE)
    images = jax.random.normal(jax.random.key(1), (4, *_SHAPE))

    def train(seed):
        key = jax.random.key(seed)
        outputs, _ = network.apply(variables, images, train=True, mutable=["batch_stats"], rngs=key)
        return np.asarray(outputs.logits)

    np.testing.assert_array_equal(train(0), train(0))
    has_dropout = _name(path) in ("Mixer", "Norm", "Stateful")
    assert (np.abs(train(0) - train(1)).max() > 0) == has_dropout
    # In evaluation, the logits of an image do not depend on the batch.
    together = network.apply(variables, images).logits
    single = jnp.concatenate([network.apply(variables, images[i : i + 1]).logits for i in range(4)])
    np.testing.assert_allclose(together, single, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
@pytest.mark.parametrize(
    ("path", "options"),
    [
        (f"{_NETS}:TrainField", {}),
        (f"{_NETS}:function_dict", {}),
        (f"{_NETS}:Merging", {}),
        (f"{_NETS}:TakesRngs", {}),
        (f"{_NETS}:always_returns_state", {}),
        (f"{_EQUINOX}:Keywords", {}),
        (f"{_NETS}:Sowing", {}),
        (f"{_NETS}:sowing", {}),
        (f"{_NETS}:Parts", {"part": "none"}),
        (f"{_EQUINOX}:instance", {}),
        (f"{_EQUINOX}:sequential", {"batched": False, "channels_first": False}),
    ],
)
def test_other_forms_of_custom_networks_are_accepted(path, options):
    networks.check(_create(path, **options), path, 10, _SHAPE)


def test_an_nnx_instance_is_not_modified():
    module = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)), nnx.Linear(1, 10, rngs=nnx.Rngs(0)))
    module.eval()
    networks.from_nnx(module)
    assert module.layers[0].deterministic


def test_sown_values_are_dropped_and_carried_state_is_updated():
    network = _create(f"{_NETS}:GroupNorm")
    variables = networks.init(network, jax.random.key(0), _SHAPE)
    assert list(variables["batch_stats"]) == ["counts"]
    _, updated = network.apply(variables, jnp.ones((2, *_SHAPE)), train=True, mutable=True)
    assert updated["batch_stats"]["counts"]["calls"] == 1


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("not_a_network", {}, "is of type list, but must be a Flax Linen, NNX or Equinox m"),
        ("TooMany", {}, r"returns logits \(2, 1000\) .* must return \(2, 10\); use"),
        ("Mixer", {"embedding_of": "nrom"}, "no submodule 'nrom'.* submodules: .*head, norm, stem"),
        ("Mixer", {"widht": 3}, "unknown option 'student.options.widht'.*did you mean 'width'"),
        ("Mixer", {"width": "3"}, "is '3', but must be of type int"),
        ("Norm", {"embedding_of": "conv"}, "unknown option .student.options.embedding_of."),
        ("Mixer", {"width": {"a": 1}}, r"is \{'a': 1\}, but must be of type int"),
        ("Mixer", {"embedding_of": 3}, "'student.options.embedding_of' .* must be of type str"),
        ("gives_class", {}, "is the class Mixer, but must be an instance; call the class"),
        ("text_init", {}, "its variable params/tree is of type str"),
        ("Parts", {"part": "integers"}, "the returned logits are of type int32; return arrays"),
        ("Parts", {"part": "map"}, "the returned maps are an array of shape .* return a list of"),
        ("Parts", {"part": "maps"}, r"maps of shapes \[\(2, 8, 8, 1\)\], but preactivations of"),
        ("Parts", {"part": "square"}, r"returns a head of .* must return kernel \[D, C\] and b"),
        ("functions", {"width": 3}, "unknown option 'student.options.width'"),
        ("TrainField", {"train": True}, "unknown option 'student.options.train'"),
        ("AddsVariable", {}, "AddsVariable': a call of the network adds or removes last; create"),
        ("functools", {}, "functools' is of type module, but must be"),
        ("Parts", {"part": "nothing"}, "Parts' returns no logits; return logits"),
        ("Parts", {"part": "embedding"}, "the returned embedding is of type tuple; return arrays"),
        (
            "Parts",
            {"part": "patches"},
            r"returns patches of shape \(2, 1\) .* return \[B, h, w, D\]",
        ),
        ("Parts", {"part": "positions"}, "the returned patches are of type int32; return arrays"),
        ("Mixer", {"patches_of": "norm"}, r"returns patches of shape \(2, 4, 8\) for 2 images"),
        ("Mixer", {"patches_of": "stam"}, "no submodule 'stam' .option patches_of.; submodules: "),
        ("Parts", {"part": "head"}, "the returned head is a tuple of 2; return a dict of kernel"),
        ("Parts", {"part": "cosine"}, "returns a head that does not match its logits: embedding @"),
        ("Parts", {"part": "width"}, r"kernel \(1, 10\), but must .* here \(3, 10\) and"),
        (
            "unserializable",
            {"what": "steps"},
            r"a parameter \['steps'\] of type int32\(\), which cannot",
        ),
        ("unserializable", {"what": "empty"}, r"shape \(0, 3\) at .*'empty'.* without elements"),
        (
            "unserializable",
            {"what": "key"},
            r"carries \['state'\]\['key'\] of type key.* a checkpoint cannot",
        ),
    ],
)
def test_an_invalid_network_is_refused_in_one_line(path, options, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        networks.check(_create(f"{_NETS}:{path}", **options), path, 10, _SHAPE)
    assert "\n" not in str(caught.value)


def test_a_submodule_or_the_result_of_a_network_has_the_patches():
    images = jax.random.normal(jax.random.key(0), (2, *_SHAPE))
    network = _create(f"{_NETS}:Mixer", embedding_of="norm", patches_of="stem")
    variables = networks.init(network, jax.random.key(1), _SHAPE)
    outputs = network.apply(variables, images)
    kernel, bias = (np.asarray(variables["params"]["stem"][part]) for part in ("kernel", "bias"))
    cut = np.asarray(images).reshape(2, 2, 4, 2, 4, 1).swapaxes(2, 3).reshape(2, 2, 2, 16)
    np.testing.assert_allclose(outputs.patches, cut @ kernel.reshape(16, 8) + bias, atol=1e-5)
    assert outputs.embedding.shape == (2, 8)
    assert _create(f"{_NETS}:Mixer").apply(variables, images).patches is None
    # Equinox networks return channels first, and may return () for no patches.
    for model, expected in (
        (lambda x: {"logits": x.mean((1, 2)), "patches": x}, (2, 8, 8, 1)),
        (lambda x: {"logits": x.mean((1, 2)), "patches": ()}, None),
    ):
        network = networks.from_equinox(equinox.nn.Lambda(model))
        patches = network.apply(network.init(jax.random.key(0), images), images).patches
        assert patches is None if expected is None else patches.shape == expected


def test_patches_that_depend_on_other_images_are_refused():
    network = _create(f"{_NETS}:Parts", part="dependent")
    with pytest.raises(errors.InputError, match="computes the patches of an image from the other"):
        networks.check_independence(network, "Parts", _SHAPE)


@pytest.mark.long
@pytest.mark.usefixtures("tiny_network")
def test_weights_of_other_options_are_refused(tmp_path):
    config = _config("tiny", f"{_NETS}:Norm", "kd", teacher__options__width=4)
    launch.run(config, tmp_path / "first")
    config.teacher.checkpoint = str(tmp_path / "first" / "teacher")
    config.teacher.options.width = 8
    with pytest.raises(errors.InputError, match=r"is \(4,\) there and \(8,\) in the network"):
        launch.run(config, tmp_path / "second")


@pytest.mark.parametrize("how", ["all", "convolutions"])
def test_remat_is_refused_for_custom_networks(how):
    with pytest.raises(errors.InputError, match="train.remat is .* a custom network"):
        parse(_config(f"{_NETS}:Norm", "resnet8", "kd", train__remat=how))


def test_the_description_counts_the_forward_pass_without_initialization():
    network = networks.from_functions(
        lambda key, images: jnp.ones((64, 64)) @ jnp.ones((64, 10)),
        lambda params, images: images.reshape(len(images), -1) @ params,
    )
    assert networks.summarize(network, _SHAPE).macs == 64 * 10
    text = program.description(f"{_NETS}:GroupNorm", 10, _SHAPE, {})
    lines = dict(line.split("  ", 1) for line in text.splitlines())
    # 3x3 kernels of one channel at 4x4 positions, and the classifier.
    assert int(lines["multiply-adds"].strip().split()[0].replace(",", "")) == 9 * 8 * 16 + 8 * 10
    assert lines["maps"].strip() == "8@4"
    assert lines["classifier"].strip() == "Dense_0"
