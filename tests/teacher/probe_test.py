import jax
import numpy as np
import pytest
from sklearn import datasets, linear_model, preprocessing

from rrd_jax import parallel
from rrd_jax.teacher import probe


@pytest.fixture(scope="module")
def digits():
    """Pixels of digits as embeddings [N, D], with entries that never change, and labels."""
    digits = datasets.load_digits()
    return np.float32(digits.data) * 3 + 50, digits.target


@pytest.mark.parametrize("l2", [1.0, 100.0])
def test_a_probe_is_scikit_learns_logistic_regression(digits, l2):
    embeddings, labels = digits
    x, y, test_x, test_y = embeddings[:1000], labels[:1000], embeddings[1000:], labels[1000:]
    fitted = probe.fit(x.copy(), y, 10, l2, parallel.make_mesh(jax.devices()[:1]))
    scaler = preprocessing.StandardScaler().fit(x)
    peer = linear_model.LogisticRegression(C=1 / l2, max_iter=5000, tol=1e-6)
    peer.fit(scaler.transform(x), y)
    kernel = peer.coef_.T / scaler.scale_[:, None]
    np.testing.assert_allclose(fitted.head["kernel"], kernel, atol=0.01 * np.abs(kernel).max())
    guesses = np.argmax(test_x @ fitted.head["kernel"] + fitted.head["bias"], axis=1)
    theirs = peer.score(scaler.transform(test_x), test_y)
    assert abs(np.mean(guesses == test_y) - theirs) < 0.005
    assert fitted.top1 == pytest.approx(100 * peer.score(scaler.transform(x), y), abs=0.2)


@pytest.mark.long
def test_images_of_several_devices_and_chunks_give_the_same_probe(digits, monkeypatch):
    x, y = digits[0][:301], digits[1][:301]
    whole = probe.fit(x.copy(), y, 10, 10.0, parallel.make_mesh(jax.devices()[:1]))
    monkeypatch.setattr(probe, "_LOGITS", 200)
    mesh = parallel.make_mesh()
    split = probe.fit(x.copy(), y, 10, 10.0, mesh)
    largest = np.abs(whole.head["kernel"]).max()
    np.testing.assert_allclose(split.head["kernel"], whole.head["kernel"], atol=5e-3 * largest)
    assert split.top1 == whole.top1
    again = probe.fit(x.copy(), y, 10, 10.0, mesh)
    np.testing.assert_array_equal(again.head["kernel"], split.head["kernel"])
