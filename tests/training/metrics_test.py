import jax.numpy as jnp
import numpy as np

from rrd_jax.training import metrics


def test_rank_counts_the_classes_before_the_label():
    logits = np.random.default_rng(0).standard_normal((50, 10)).astype(np.float32)
    labels = np.arange(50) % 10
    order = np.argsort(-logits, axis=-1, kind="stable")
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    np.testing.assert_array_equal(metrics.rank(jnp.asarray(logits), jnp.asarray(labels)), expected)


def test_rank_of_equal_logits_agrees_with_argmax():
    logits = jnp.zeros((4, 4)).at[3].set(jnp.nan)
    np.testing.assert_array_equal(metrics.rank(logits, jnp.arange(4)), [0, 1, 2, 3])
