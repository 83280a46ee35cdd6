"""What holds for every objective on feature maps, on made-up networks and on real ones' shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, networks, objectives, optim, parallel, state, steps
from rrd_jax.networks import Outputs
from tests import tiny

_BATCH = 8
# Options for batches of 8, and whether the order of the batch is free.
_OPTIONS = {"semckd": {"batch_size": _BATCH}}
_NAMES = ("fitnet", "at", "nst", "vid", "kdsvd", "ssim", "semckd", "reviewkd", "srrl", "simkd",
          "ab", "ft", "fsp")  # fmt: skip
_WITHOUT_ADAPTERS = ("at", "nst", "kdsvd", "ssim", "fsp")  # where channels are equal


def _create(name):
    return objectives.create(name, **_OPTIONS.get(name, {}))


def _outputs(seed, *, scale=1.0, dtype=jnp.float32, batch=_BATCH):
    """A network of three taps and the stem, whose embedding is the last one's mean."""
    rng = np.random.default_rng(seed)
    shapes = [(8, 8, 4), (8, 8, 4), (4, 4, 6), (2, 2, 8)]
    befores = tuple(
        jnp.asarray(scale * rng.standard_normal((batch, *shape)), dtype) for shape in shapes
    )
    maps = tuple(jax.nn.relu(x) for x in befores)
    embedding = jnp.mean(maps[-1].astype(jnp.float32), axis=(1, 2))
    head = {
        "kernel": jnp.asarray(rng.standard_normal((8, 5)), jnp.float32),
        "bias": jnp.asarray(rng.standard_normal(5), jnp.float32),
    }
    return Outputs(embedding @ head["kernel"] + head["bias"], embedding, maps, befores, head)


def _losses(objective, own, student, teacher):
    """Of distillation and of the stage before it, [B] each."""
    both = [objective.loss]
    if objective.stage:
        both.append(objective.stage.loss)
    batch = {"label": jnp.zeros(len(student.logits), jnp.int32)}
    return jnp.stack([loss(own, student, teacher, batch)[0] for loss in both])


@functools.partial(jax.jit, static_argnums=0)
def _value_and_gradients(objective, own, student, teacher):
    def total(params, frozen, student):
        now = own._replace(params=params, frozen=frozen)
        return jnp.sum(jnp.mean(_losses(objective, now, student, teacher), axis=1))

    return jax.value_and_grad(total, argnums=(0, 1, 2))(own.params, own.frozen, student)


_compiled_losses = jax.jit(_losses, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _init(objective, student, teacher):
    return objective.init(jax.random.key(0), student, teacher)


@pytest.mark.parametrize("name", _NAMES)
def test_losses_are_float32_per_example_the_same_compiled_and_in_bfloat16_finite(name):
    objective, student, teacher = _create(name), _outputs(0), _outputs(1)
    own = _init(objective, student, teacher)
    found = _losses(objective, own, student, teacher)
    compiled = _compiled_losses(objective, own, student, teacher)
    np.testing.assert_allclose(found, compiled, rtol=1e-4, atol=1e-6)
    assert found.shape[1:] == (_BATCH,)
    halves = _outputs(0, dtype=jnp.bfloat16), _outputs(1, dtype=jnp.bfloat16)
    value, (of_params, _, _) = _value_and_gradients(objective, own, *halves)
    half = _compiled_losses(objective, own, *halves)
    assert found.dtype == half.dtype == value.dtype == jnp.float32
    assert np.isfinite(half).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(of_params))
    if name != "kdsvd":  # whose choice of a direction may be another one
        np.testing.assert_allclose(half, found, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("case", ["equal", "zero student", "zero both"])
def test_gradients_are_finite_at_no_distance_and_without_features(name, case):
    objective = _create(name)
    student = _outputs(0, scale=0.0 if case.startswith("zero") else 1.0)
    teacher = student if case != "zero student" else _outputs(1)
    own = _init(objective, student, teacher)
    value, gradients = _value_and_gradients(objective, own, student, teacher)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
    if case != "zero student" and name in _WITHOUT_ADAPTERS:
        np.testing.assert_allclose(value, 0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in _NAMES if name != "semckd"])
def test_the_order_of_the_batch_changes_only_the_order_of_losses(name):
    objective, student, teacher = _create(name), _outputs(0), _outputs(1)
    own = _init(objective, student, teacher)
    order = np.random.default_rng(0).permutation(_BATCH)

    def turned(outputs):
        moved = jax.tree.map(lambda x: x[order], outputs._replace(head=()))
        return moved._replace(head=outputs.head)

    found = _compiled_losses(objective, own, turned(student), turned(teacher))
    wanted = _compiled_losses(objective, own, student, teacher)[:, order]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", _NAMES)
def test_the_teacher_is_constant(name):
    objective, student, teacher = _create(name), _outputs(0), _outputs(1)
    own = _init(objective, student, teacher)
    gradient = jax.jit(jax.grad(lambda t: jnp.sum(_losses(objective, own, student, t))))(teacher)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


@pytest.mark.parametrize("name", ["kdsvd", "simkd", "semckd"])
def test_a_batch_split_over_eight_devices_has_the_losses_of_one(name):
    objective, student, teacher = _create(name), _outputs(0), _outputs(1)
    own = _init(objective, student, teacher)
    mesh = parallel.make_mesh()
    split, whole = parallel.split(mesh), parallel.replicated(mesh)
    placed = [
        jax.device_put(x._replace(head=()), split)._replace(head=jax.device_put(x.head, whole))
        for x in (student, teacher)
    ]
    found = _compiled_losses(objective, jax.device_put(own, whole), *placed)
    np.testing.assert_allclose(
        found, _compiled_losses(objective, own, student, teacher), rtol=1e-4, atol=1e-6
    )


@functools.cache
def _shapes(name):
    outputs = networks.summarize(networks.create(name, 100), (32, 32, 3)).outputs

    def batched(leaf):
        return jax.ShapeDtypeStruct((_BATCH, *leaf.shape[1:]), leaf.dtype)

    batch = jax.tree.map(batched, outputs._replace(head=()))
    return batch._replace(head=outputs.head)


_OTHER_CHANNELS = [
    ("resnet32x4", "shufflenetv1_cifar"),
    ("vgg13", "mobilenetv2_cifar"),
    ("wrn_40_2", "wrn_40_1"),
]
_PAIRS = [("resnet32x4", "resnet8x4"), ("resnet32x4", "vgg8"), *_OTHER_CHANNELS]


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize(("teacher", "student"), _PAIRS)
def test_real_networks_are_compared_or_refused(name, teacher, student):
    objective, pair = _create(name), (_shapes(student), _shapes(teacher))
    if name in ("kdsvd", "fsp") and (teacher, student) in _OTHER_CHANNELS:
        with pytest.raises(errors.InputError, match="the student's taps are .* the teacher's"):
            jax.eval_shape(objective.init, jax.random.key(0), *pair)
        return
    own = jax.eval_shape(objective.init, jax.random.key(0), *pair)
    step = functools.partial(_value_and_gradients, objective)
    value, gradients = jax.eval_shape(step, own, *pair)
    assert value.shape == ()
    assert jax.tree.map(jnp.shape, gradients[:2]) == jax.tree.map(jnp.shape, own[:2])
    if objective.predict:
        assert jax.eval_shape(objective.predict, own, pair[0]).shape == (_BATCH, 100)


@pytest.mark.parametrize("name", ["fitnet", "reviewkd", "srrl", "simkd", "ft"])
def test_a_step_of_the_trainer_moves_the_adapters_and_keeps_the_constants(name):
    student, teacher = networks.create("resnet8", 4), networks.create("resnet8x4", 4)
    terms = {"ce": objectives.create("ce"), name: _create(name)}
    optimizer = optim.sgd(lambda step: 0.01)
    variables = networks.init(teacher, (8, 8, 1))
    start = jax.jit(
        lambda key, weights: state.create(
            key, student, terms, optimizer, (8, 8, 1), teacher, weights
        )
    )(jax.random.key(0), variables)
    step = steps.make_train_step(
        student,
        terms,
        dict.fromkeys(terms, 1.0),
        optimizer,
        tiny.plain,
        5,
        steps.running(teacher),
    )
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.standard_normal((_BATCH, 8, 8, 1)).astype(np.float32),
        "label": np.arange(_BATCH, dtype=np.int32) % 4,
        "index": np.arange(_BATCH, dtype=np.int32),
    }
    after, logged = jax.jit(step)(start, variables, batch)
    assert np.isfinite(logged[f"loss/{name}"])
    moved = jax.tree.map(lambda a, b: np.any(a != b), start.params["objectives"][name],
                         after.params["objectives"][name])  # fmt: skip
    # A bias in front of a batch norm need not move.
    kernels = [v for path, v in jax.tree.leaves_with_path(moved) if "kernel" in str(path)]
    assert kernels
    assert all(kernels)
    jax.tree.map(np.testing.assert_array_equal, start.frozen, after.frozen)
    if name == "simkd":
        head = variables["params"]["fc"]
        jax.tree.map(np.testing.assert_array_equal, after.frozen[name]["head"], head)
        assert np.any(after.memory[name]["layer0"]["mean"])


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8", "mobilenetv2_cifar",
                                  "shufflenetv1_cifar", "shufflenetv2_cifar", "mobilenetv1",
                                  "mobilenetv2", "resnet18", "shufflenetv2_x1_0"])  # fmt: skip
def test_every_network_names_and_reports_its_classifier(name):
    network = networks.create(name, 7)
    summary = networks.summarize(network, (32, 32, 3))
    head = summary.outputs.head
    assert head["kernel"].shape == (summary.outputs.embedding.shape[1], 7)
    assert head["bias"].shape == (7,)
    variables = jax.eval_shape(
        functools.partial(networks.init, network, image_shape=(32, 32, 3)), jax.random.key(0)
    )
    assert variables["params"][summary.classifier] == head
