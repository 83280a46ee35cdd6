"""The Python API: jobs, networks and losses as Python objects."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

import rrd_jax
from rrd_jax import errors, parallel
from rrd_jax.library import Loaded
from rrd_jax.objectives import Objective, ObjectiveState
from rrd_jax.objectives.parts import memory
from tests import launch
from tests.networks import custom_nets as nets

pytestmark = pytest.mark.long

_RNG = np.random.default_rng(0)
_SPLIT = _RNG.integers(0, 256, (32, 8, 8, 1), dtype=np.uint8), np.arange(32) % 10
_OPTIONS = {"train": _SPLIT, "test": _SPLIT, "epochs": 1, "batch_size": 16}
_PLAIN = {"data.augment": "none"}


@pytest.fixture(scope="module")
def teacher():
    """The result of a training run of GroupNorm."""
    with pytest.MonkeyPatch.context() as patch:
        mesh = parallel.make_mesh(jax.devices()[:1])
        patch.setattr(parallel, "make_mesh", lambda **_: mesh)
        return rrd_jax.train_teacher(nets.GroupNorm(10), **_OPTIONS)


def test_the_result_of_train_teacher_has_the_label_teacher(teacher):
    assert [result.label for result in teacher.results] == ["teacher"]


def _mimic(student, teacher, batch):
    del batch
    return jnp.mean(jnp.square(student.logits - teacher.logits), axis=-1)


def _mixer():
    network = nets.Mixer(10)
    return network, network.init(jax.random.key(0), jnp.ones((1, 8, 8, 1)))


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(
    ("kind", "student", "options"),
    [
        ("trained", nets.Mixer(10), {"objectives": {"kd": 1.0}, "optimizer": optax.adamw(1e-3)}),
        ("workdir", nets.GroupNorm(10), {"optimizer": optax.adamw, "learning_rate": 0.01}),
        ("nnx", nets.Norm(10, rngs=nnx.Rngs(1)), {"optimizer": "adamw"}),
        ("pair", nets.functions, {"objectives": {"mine": (2.0, _mimic), "ce": 1.0}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_job_with_python_objects_finishes_and_resumes(kind, student, options, teacher, tmp_path):
    teachers = {
        "trained": lambda: teacher,
        "workdir": lambda: str(teacher.workdir),
        "nnx": lambda: nets.Norm(10, rngs=nnx.Rngs(0)),
        "pair": _mixer,
    }
    chosen = teachers[kind]()
    if kind == "workdir":
        # The workdir of a custom network does not contain the network object.
        chosen = rrd_jax.load(chosen, network=nets.GroupNorm(10))
    result = rrd_jax.distill(
        teacher=chosen, student=student, workdir=tmp_path, fields=_PLAIN, **options, **_OPTIONS
    )
    assert result.workdir == tmp_path
    # The teacher was not trained.
    assert (result.results[0].label, result.results[0].seconds) == ("teacher", 0)
    assert rrd_jax.evaluate(result)["top1"] == result.metrics["top1"]
    assert rrd_jax.evaluate(result.network, _SPLIT)["top1"] == result.metrics["top1"]
    logits = result.network(_SPLIT[0]).logits
    top1 = 100 * np.mean(np.argmax(logits, axis=-1) == _SPLIT[1])
    assert top1 == pytest.approx(result.metrics["top1"])
    before = (tmp_path / "metrics.jsonl").read_text()
    resumed = rrd_jax.distill(
        teacher=chosen, student=student, workdir=tmp_path, fields=_PLAIN, **options, **_OPTIONS
    )
    assert resumed.metrics == result.metrics
    assert (tmp_path / "metrics.jsonl").read_text() == before
    row = json.loads(before)
    # The learning rate of an Optax transformation is unknown and not logged.
    assert ("learning_rate" in row) != isinstance(
        options.get("optimizer"), optax.GradientTransformation
    )


@pytest.mark.usefixtures("one_device", "tiny_network")
def test_a_config_and_a_job_give_the_results_of_the_command(tmp_path):
    config = launch.digits("smoke,tiny-tiny,kd")
    launch.run(config, tmp_path / "command")
    momentum = {"optimizer.momentum": config.optimizer.momentum}
    result = rrd_jax.distill(config, tmp_path / "library", fields=momentum)
    job = rrd_jax.config.parse(config)
    assert rrd_jax.distill(job, tmp_path / "job").metrics["top1"] == result.metrics["top1"]
    for name in ("library", "job"):
        assert launch.digests(tmp_path / name, 6) == launch.digests(tmp_path / "command", 6)
    # A run of the command can be loaded without a network object.
    network = rrd_jax.load(tmp_path / "command")
    assert (network.name, network.num_classes, network.image_shape) == ("tiny", 10, (8, 8, 1))


@pytest.mark.usefixtures("one_device")
def test_a_changed_weight_is_refused_in_an_existing_workdir(teacher, tmp_path):
    options = _OPTIONS | {"teacher": teacher, "student": nets.GroupNorm(10)}
    rrd_jax.distill(**options, objectives={"kd": 1.0}, workdir=tmp_path)
    with pytest.raises(errors.InputError, match="objectives.kd.weight is 2.0, stored 1.0"):
        rrd_jax.distill(**options, objectives={"kd": 2.0}, workdir=tmp_path)


def test_a_network_without_normalization_accepts_only_floats():
    network = rrd_jax.networks.adapt(nets.GroupNorm(10), "mine")
    variables = rrd_jax.networks.init(network, jax.random.key(0), (8, 8, 1))
    loaded = Loaded(network, variables, "mine", 10)
    assert loaded(np.zeros((2, 8, 8, 1), np.float32)).logits.shape == (2, 10)
    with pytest.raises(errors.InputError, match="mean and std"):
        loaded(np.zeros((2, 8, 8, 1), np.uint8))


def test_the_loss_works_under_all_jax_transformations():
    queue = memory.init_queue(jax.random.key(0), size=48, dim=16)
    student, teacher = jax.random.normal(jax.random.key(1), (2, 8, 16))

    def loss(student, teacher, rows):
        return rrd_jax.relational_loss(
            student, teacher, rows, temperature_student=0.1, temperature_teacher=0.2
        )

    expected = loss(student, teacher, queue.rows)
    np.testing.assert_allclose(jax.jit(loss)(student, teacher, queue.rows), expected, rtol=1e-5)
    vmapped = jax.vmap(lambda s, t: loss(s[None], t[None], queue.rows)[0])(student, teacher)
    np.testing.assert_allclose(vmapped, expected, rtol=1e-5)
    mesh = parallel.make_mesh()
    by_example = parallel.split(mesh).spec
    shared = jax.shard_map(
        loss, mesh=mesh, in_specs=(by_example, by_example, PartitionSpec()), out_specs=by_example
    )
    np.testing.assert_allclose(jax.jit(shared)(student, teacher, queue.rows), expected, rtol=1e-5)
    gradients = jax.grad(lambda s, t: jnp.sum(loss(s, t, queue.rows)), argnums=(0, 1))
    by_student, by_teacher = gradients(student, teacher)
    assert np.abs(by_student).max() > 0
    assert not np.abs(by_teacher).max()


@pytest.mark.usefixtures("one_device")
def test_a_custom_objective_with_parameters_and_memory_trains(teacher, tmp_path):
    def init(key, student, teacher):
        del key
        size = student.embedding.shape[-1], teacher.embedding.shape[-1]
        return ObjectiveState(params=jnp.full(size, 0.1), memory=jnp.zeros(()))

    def loss(state, student, teacher, batch):
        del batch
        difference = student.embedding @ state.params - teacher.embedding
        return jnp.mean(jnp.square(difference), axis=-1), state.memory + 1

    result = rrd_jax.distill(
        teacher=teacher,
        student=nets.GroupNorm(10),
        objectives={"mine": Objective(init, loss), "ce": 0.5},
        workdir=tmp_path,
        **_OPTIONS,
    )
    row = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert {"train/loss/mine", "train/loss/ce"} <= set(row)
    assert result.results[-1].label == "distilled, ce+mine"
