"""Wrappers of frozen teachers: probes, class vectors, ensembles and preprocessing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import networks
from rrd_jax.data.model_info import Preprocessing
from rrd_jax.networks import Outputs
from rrd_jax.teacher import ensemble, fold, preprocessing, row_format, wrappers
from rrd_jax.training.choices import TeachingChoice
from tests import tiny

_SHAPE = (8, 8, 3)
_STUDENT = Preprocessing(8, 3, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def bare():
    """A network without a classifier, and variables with nontrivial batch statistics."""
    network = tiny.NETWORK(num_classes=0)
    variables = networks.init(network, jax.random.key(0), _SHAPE)
    rng = np.random.default_rng(0)
    stats = jax.tree.map(lambda x: x + rng.uniform(0, 0.2, x.shape), variables["batch_stats"])
    return network, {**variables, "batch_stats": jax.tree.map(jnp.float32, stats)}


@pytest.fixture(scope="module")
def images():
    """A batch with the normalization of the student."""
    return jax.random.normal(jax.random.key(1), (4, *_SHAPE))


def _unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _wrappers(bare):
    """Yields the network with a probe and with class vectors.

    Each item has the wrapped network, its variables and the expected logits as a function of the
    embedding.
    """
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


def test_a_network_without_classes_has_an_embedding_but_no_logits_and_no_head(bare, images):
    network, variables = bare
    full = tiny.NETWORK(num_classes=4)
    shapes = networks.named_shapes(networks.init(full, jax.random.key(0), _SHAPE))
    expected = {n: s for n, s in shapes.items() if not n.startswith("params/fc/")}
    assert networks.named_shapes(variables) == expected
    outputs = network.apply(variables, images)
    assert outputs.logits == () == outputs.head
    assert outputs.embedding.shape == (4, 16)
    layout = row_format.of_network(network, _SHAPE, "auto", has_patches=False)
    row = layout.encode(outputs)
    assert row is outputs.embedding
    assert layout.decode(row, ()).logits == ()


def test_live_folded_and_cached_networks_compute_logits_from_the_embedding(bare, images):
    embedding = np.asarray(bare[0].apply(bare[1], images).embedding, np.float64)
    for network, variables, logits in _wrappers(bare):
        live = network.apply(variables, images)
        np.testing.assert_allclose(live.logits, logits(embedding), rtol=2e-4, atol=2e-4)
        folded = network.apply(fold.fold(network, variables, _SHAPE), images)
        chex.assert_trees_all_close(folded.logits, live.logits, rtol=1e-3, atol=1e-3)
        shapes = networks.summarize(network, _SHAPE)
        assert networks.named_shapes(shapes.variables) == networks.named_shapes(variables)
        head = networks.head(network, variables, _SHAPE) if shapes.outputs.head else ()
        layout = row_format.of_network(network, _SHAPE, "auto", has_patches=False)
        restored = layout.decode(layout.encode(live), head)
        chex.assert_trees_all_close(restored.logits, live.logits, rtol=1e-6)
        chex.assert_trees_all_equal(restored.embedding, live.embedding)


def test_an_ensemble_has_logits_only_if_each_member_has_logits():
    rows = [Outputs(jnp.ones((2, 3)), jnp.ones((2, 4))), Outputs((), jnp.ones((2, 4)))]
    joined = ensemble.Ensemble((), (0.5, 0.5)).join(rows)
    assert joined.logits == ()
    assert joined.members[1].logits == ()


def _choose_preprocessing(**fields):
    return preprocessing.for_teacher(TeachingChoice(**fields), None, _STUDENT)


def test_equal_preprocessing_needs_no_wrapper(bare):
    assert _choose_preprocessing() is None
    assert _choose_preprocessing(image_size=8, mean=(0.50005, 0.4, 0.3)) is None
    stored = Preprocessing(8, 3, _STUDENT.mean, _STUDENT.std, resize=9)
    assert preprocessing.for_teacher(TeachingChoice(), stored, _STUDENT) is None
    assert preprocessing.wrap(bare[0], None, _STUDENT) is bare[0]


def test_preprocessing_fields_override_the_preprocessing_of_the_weights():
    stored = Preprocessing(16, 3, (0.1,) * 3, (0.2,) * 3)
    assert preprocessing.for_teacher(TeachingChoice(), stored, _STUDENT) == stored
    choice = TeachingChoice(mean=(0.3,) * 3, image_size=8)
    actual = preprocessing.for_teacher(choice, stored, _STUDENT)
    assert actual == Preprocessing(8, 3, (0.3,) * 3, (0.2,) * 3)


def test_images_are_normalized_and_resized_for_the_teacher(bare, images):
    network, variables = bare
    target = _choose_preprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), image_size=16)
    teacher = preprocessing.wrap(network, target, _STUDENT)
    pixels = np.asarray(images) * _STUDENT.std + _STUDENT.mean
    large = np.asarray(jax.image.resize(pixels, (4, 16, 16, 3), "bilinear"))
    expected = (large - np.array(target.mean)) / np.array(target.std)
    np.testing.assert_allclose(teacher.preprocess(images), expected, rtol=1e-4, atol=1e-5)
    actual = teacher.apply(variables, images)
    direct = network.apply(variables, jnp.float32(expected))
    chex.assert_trees_all_close(actual.embedding, direct.embedding, rtol=1e-3, atol=1e-4)
    assert actual.maps[0].shape[1:3] == (16, 16)
    unscaled = preprocessing.wrap(network, _choose_preprocessing(std=(0.5,) * 3), _STUDENT)
    assert unscaled.preprocess(images).shape == images.shape
    # The keys of caches contain the representation of the network.
    assert repr(unscaled) != repr(teacher)
