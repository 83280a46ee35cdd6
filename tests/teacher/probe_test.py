"""Linear probes on frozen embeddings, compared with scikit-learn."""

import jax
import numpy as np
import pytest
from sklearn import datasets, linear_model, preprocessing

from rrd_jax import parallel
from rrd_jax.teacher import probe


@pytest.fixture(scope="module")
def digits():
    """Embeddings [N, D], pixels of digits with some constant entries, and labels."""
    digits = datasets.load_digits()
    return np.float32(digits.data) * 3 + 50, digits.target


@pytest.mark.parametrize("l2", [1.0, 100.0])
def test_a_probe_equals_the_logistic_regression_of_scikit_learn(digits, l2):
    embeddings, labels = digits
    x, y, test_x, test_y = embeddings[:1000], labels[:1000], embeddings[1000:], labels[1000:]
    fitted = probe.fit(x.copy(), y, 10, l2, parallel.make_mesh(jax.devices()[:1]))
    scaler = preprocessing.StandardScaler().fit(x)
    peer = linear_model.LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-6)
    peer.fit(scaler.transform(x), y)
    kernel = peer.coef_.T / scaler.scale_[:, None]
    np.testing.assert_allclose(fitted.head["kernel"], kernel, atol=0.01 * np.abs(kernel).max())
    guesses = np.argmax(test_x @ fitted.head["kernel"] + fitted.head["bias"], axis=1)
    peer_top1 = peer.score(scaler.transform(test_x), test_y)
    assert abs(np.mean(guesses == test_y) - peer_top1) < 0.005
    assert fitted.top1 == pytest.approx(100 * peer.score(scaler.transform(x), y), abs=0.2)


@pytest.mark.long
def test_the_probe_does_not_depend_on_devices_and_chunks(digits, monkeypatch):
    x, y = digits[0][:301], digits[1][:301]
    single = probe.fit(x.copy(), y, 10, 10.0, parallel.make_mesh(jax.devices()[:1]))
    monkeypatch.setattr(probe, "_LOGITS", 200)
    mesh = parallel.make_mesh()
    sharded = probe.fit(x.copy(), y, 10, 10.0, mesh)
    largest = np.abs(single.head["kernel"]).max()
    np.testing.assert_allclose(sharded.head["kernel"], single.head["kernel"], atol=5e-3 * largest)
    assert sharded.top1 == single.top1
    refitted = probe.fit(x.copy(), y, 10, 10.0, mesh)
    np.testing.assert_array_equal(refitted.head["kernel"], sharded.head["kernel"])
