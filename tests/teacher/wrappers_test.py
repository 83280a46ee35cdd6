import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.networks import Outputs
from rrd_jax.teacher import ensemble, fold, preprocessing, step_outputs, wrappers
from rrd_jax.training.choices import TeachingChoice
from tests import tiny

_SHAPE = (8, 8, 3)
_STUDENT = Preprocessing(8, 3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def bare():
    """A network without a classifier, and its weights, with statistics that are not trivial."""
    network = tiny.NETWORK(num_classes=0)
    variables = networks.init(network, jax.random.key(0), _SHAPE)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda x: x + rng.uniform(0, 0.2, x.shape), variables["batch_stats"])
    return network, {**variables, "batch_stats": jax.tree.map(jnp.float32, stats)}


@pytest.fixture(scope="module")
def images():
    """A batch, normalised as the student sees it."""
    return jax.random.normal(jax.random.key(1), (4, *_SHAPE))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _wrapped(bare):
    """The network with a probe, and with class vectors; and their variables."""
    network, variables = bare
    rng = np.random.default_rng(1)
    head = {"kernel": rng.normal(size=(16, 5)), "bias": rng.normal(size=5)}
    vectors = rng.normal(size=(5, 16))
    yield (
        wrappers.Probed(network, 5),
        wrappers.with_parameter(variables, wrappers.PROBE, jax.tree.map(jnp.float32, head)),
        lambda embedding: embedding @ head["kernel"] + head["bias"],
    )
    yield (
        wrappers.ZeroShot(network, (5, 16), "embedding", 20.0),
        wrappers.with_parameter(variables, wrappers.VECTORS, jnp.float32(vectors)),
        lambda embedding: 20 * _unit(embedding) @ _unit(vectors).T,
    )


def test_a_network_of_no_classes_has_an_embedding_and_neither_logits_nor_head(bare, images):
    network, variables = bare
    full = tiny.NETWORK(num_classes=4)
    made = networks.init(full, jax.random.key(0), _SHAPE)
    kept = {n: s for n, s in networks.named_shapes(made).items() if not n.startswith("params/fc/")}
    assert networks.named_shapes(variables) == kept
    found = network.apply(variables, images)
    assert found.logits == () == found.head
    assert found.embedding.shape == (4, 16)
    row = step_outputs.cached_row(found)  # what the cache keeps
    assert row is found.embedding
    assert step_outputs.from_row(row, (), found).logits == ()


def test_logits_follow_from_the_embedding_folded_cached_and_live(bare, images):
    embedding = np.asarray(bare[0].apply(bare[1], images).embedding, np.float64)
    for network, variables, logits in _wrapped(bare):
        live = network.apply(variables, images)
        np.testing.assert_allclose(live.logits, logits(embedding), rtol=2e-4, atol=2e-4)
        folded = network.apply(fold.fold(network, variables, _SHAPE), images)
        chex.assert_trees_all_close(folded.logits, live.logits, rtol=1e-3, atol=1e-3)
        shapes = networks.summarize(network, _SHAPE)
        assert networks.named_shapes(shapes.variables) == networks.named_shapes(variables)
        head = networks.head(network, variables, _SHAPE) if shapes.outputs.head else ()
        recalled = step_outputs.from_row(step_outputs.cached_row(live), head, shapes.outputs)
        chex.assert_trees_all_close(recalled.logits, live.logits, rtol=1e-6)
        chex.assert_trees_all_equal(recalled.embedding, live.embedding)


def test_teachers_together_have_logits_only_if_each_has():
    rows = [Outputs(jnp.ones((2, 3)), jnp.ones((2, 4))), Outputs((), jnp.ones((2, 4)))]
    joined = ensemble.Ensemble((), (0.5, 0.5)).join(rows)
    assert joined.logits == ()
    assert all(member.logits == () for member in joined.members)


def _own(**fields):
    return preprocessing.for_teacher(TeachingChoice(**fields), None, _STUDENT)


def test_images_of_the_same_kind_are_not_touched(bare):
    assert _own() is None
    assert _own(image_size=8, mean=(0.50005, 0.4, 0.3)) is None
    known = Preprocessing(8, 3, _STUDENT.mean, _STUDENT.std, resize=9)
    assert preprocessing.for_teacher(TeachingChoice(), known, _STUDENT) is None
    assert preprocessing.wrap(bare[0], None, _STUDENT) is bare[0]


def test_what_the_config_says_goes_before_what_the_weights_say():
    known = Preprocessing(16, 3, (0.1,) * 3, (0.2,) * 3)
    assert preprocessing.for_teacher(TeachingChoice(), known, _STUDENT) == known
    asked = TeachingChoice(mean=(0.3,) * 3, image_size=8)
    found = preprocessing.for_teacher(asked, known, _STUDENT)
    assert found == Preprocessing(8, 3, (0.3,) * 3, (0.2,) * 3)


def test_images_are_normalised_and_sized_as_the_teacher_knows_them(bare, images):
    network, variables = bare
    seen = _own(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), image_size=16)
    teacher = preprocessing.wrap(network, seen, _STUDENT)
    pixels = np.asarray(images) * _STUDENT.std + _STUDENT.mean
    large = np.asarray(jax.image.resize(pixels, (4, 16, 16, 3), "bilinear"))
    wanted = (large - np.array(seen.mean)) / np.array(seen.std)
    np.testing.assert_allclose(teacher.preprocess(images), wanted, rtol=1e-4, atol=1e-5)
    found = teacher.apply(variables, images)
    direct = network.apply(variables, jnp.float32(wanted))
    chex.assert_trees_all_close(found.embedding, direct.embedding, rtol=1e-3, atol=1e-4)
    assert found.maps[0].shape[1:3] == (16, 16)
    same = preprocessing.wrap(network, _own(std=(0.5,) * 3), _STUDENT)
    assert same.preprocess(images).shape == images.shape
    assert repr(same) != repr(teacher)  # what caches are told apart by
