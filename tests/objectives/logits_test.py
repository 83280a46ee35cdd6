import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from rrd_jax import errors, objectives
from rrd_jax.networks import Outputs
from rrd_jax.objectives import logits
from tests import golden


def _kd64(student, teacher, temperature):
    def log_softmax(x):
        x = x / temperature
        x = x - x.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    log_s, log_t = log_softmax(student), log_softmax(teacher)
    return temperature**2 * (np.exp(log_t) * (log_t - log_s)).sum(-1)


class VariantsTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True, with_pmap=True)
    @parameterized.parameters(1.0, 4.0, 20.0)
    def test_kd_equals_float64(self, temperature):
        rng = np.random.default_rng(0)
        student, teacher = 5 * rng.standard_normal((2, 6, 9))
        loss = self.variant(lambda s, t: logits.kd_loss(s, t, temperature=temperature))
        found = loss(jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32))
        wanted = _kd64(student, teacher, temperature)
        np.testing.assert_allclose(np.ravel(found)[: len(wanted)], wanted, rtol=1e-5)


@pytest.mark.parametrize("name", ["kd", "kd_T1", "imagenet_kd"])
def test_kd_golden_loss_and_gradient(name):
    file = golden.load(name)
    loss, gradient = jax.value_and_grad(
        lambda s: jnp.mean(logits.kd_loss(s, file["in/y_t"], temperature=float(file["hp/T"])))
    )(jnp.asarray(file["in/y_s"]))
    assert golden.relative(loss, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/y_s"]) < 1e-5


def test_kd_is_zero_for_equal_logits_and_finite_for_extreme_ones():
    x = jnp.asarray([[1e4, -1e4, 0.0]])
    np.testing.assert_allclose(logits.kd_loss(x, x, temperature=4.0), 0, atol=1e-6)
    value, gradient = jax.value_and_grad(lambda s: jnp.sum(logits.kd_loss(s, -x, temperature=1.0)))(
        x
    )
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_kd_has_no_gradient_into_the_teacher():
    x = jnp.asarray([[1.0, 2.0]])
    gradient = jax.grad(lambda t: jnp.sum(logits.kd_loss(x, t, temperature=4.0)))(x + 1)
    np.testing.assert_array_equal(gradient, 0)


def test_ce_is_minus_the_log_probability_of_the_label():
    scores = np.array([[2.0, 0.0, -1.0], [0.0, 0.0, 3.0]])
    objective = objectives.create("ce")
    outputs = Outputs(jnp.asarray(scores, jnp.float32), jnp.zeros((2, 1)))
    state = objective.init(jax.random.key(0), outputs, None)
    found, _ = objective.loss(state, outputs, None, {"label": jnp.asarray([0, 1])})
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(found, -np.log([p[0, 0], p[1, 1]]), rtol=1e-6)


def test_bad_names_options_and_temperatures_are_named():
    with pytest.raises(errors.InputError, match="unknown objective 'rdd'; did you mean 'rrd'"):
        objectives.create("rdd")
    with pytest.raises(errors.InputError, match="did you mean 'temperature'"):
        objectives.create("kd", temprature=3.0)
    with pytest.raises(errors.InputError, match="temperature is 0"):
        objectives.create("kd", temperature=0)


def test_cross_entropy_of_a_mixed_image_weighs_both_labels():
    student = Outputs(jnp.asarray(np.random.default_rng(0).standard_normal((4, 5))), jnp.zeros(()))
    labels, others = jnp.arange(4), jnp.arange(4)[::-1]
    objective = objectives.create("ce")
    state = objective.init(jax.random.key(0), student, None)

    def loss(**batch):
        return objective.loss(state, student, None, batch)[0]

    mixed = loss(label=labels, other_label=others, share=jnp.float32(0.3))
    wanted = 0.3 * loss(label=labels) + 0.7 * loss(label=others)
    np.testing.assert_allclose(mixed, wanted, rtol=1e-6)


def test_wsld_golden_loss_and_gradient():
    file = golden.load("wsld")
    options = {"temperature": float(file["hp/T"]), "alpha": float(file["hp/alpha"])}
    loss, gradient = jax.jit(
        jax.value_and_grad(
            lambda s: jnp.mean(logits.wsld_loss(s, file["in/fc_t"], file["in/label"], **options))
        )
    )(file["in/fc_s"])
    assert golden.relative(loss, file["out/loss"]) < 1e-5
    assert golden.relative(gradient, file["grad/in/fc_s"]) < 1e-5


def _dkd64(student, teacher, labels, temperature, alpha, beta):
    losses = []
    for s, t, label in zip(student, teacher, labels, strict=True):
        p, q = (np.exp(x / temperature) / np.exp(x / temperature).sum() for x in (t, s))
        binary = [np.array([x[label], 1 - x[label]]) for x in (p, q)]
        others = [np.delete(x, label) / np.delete(x, label).sum() for x in (p, q)]
        target, rest = ((a * np.log(a / b)).sum() for a, b in (binary, others))
        losses.append(temperature**2 * (alpha * target + beta * rest))
    return np.array(losses)


@pytest.mark.parametrize(("temperature", "alpha", "beta"), [(4, 1, 8), (1, 2, 0.5), (20, 0, 1)])
@pytest.mark.parametrize("classes", [2, 9])
def test_dkd_equals_float64(temperature, alpha, beta, classes):
    rng = np.random.default_rng(0)
    student, teacher = 3 * rng.standard_normal((2, 6, classes))
    labels = rng.integers(0, classes, 6)
    options = {"temperature": temperature, "alpha": alpha, "beta": beta}
    loss = jax.jit(lambda s, t, labels: logits.dkd_loss(s, t, labels, **options))
    found = loss(student, teacher, labels)
    wanted = _dkd64(student, teacher, labels, **options)
    # Divergences of 0.01 nats, times T^2, of logits that float32 knows to 1e-7.
    np.testing.assert_allclose(found, wanted, rtol=1e-4 if temperature == 20 else 2e-5, atol=1e-5)


def test_dkd_recouples_to_kd():
    rng = np.random.default_rng(0)
    student, teacher = jnp.asarray(rng.standard_normal((2, 6, 9)))
    labels = jnp.arange(6)
    rest = 1 - jnp.take_along_axis(jax.nn.softmax(teacher / 4), labels[:, None], axis=1)[:, 0]
    target, others = (
        logits.dkd_loss(student, teacher, labels, alpha=a, beta=1 - a) for a in (1.0, 0.0)
    )
    found = target + rest * others
    np.testing.assert_allclose(found, logits.kd_loss(student, teacher, temperature=4.0), rtol=1e-4)


def test_dkd_and_wsld_stay_finite_for_extreme_logits():
    x = jnp.asarray([[1e4, -1e4, 0.0]])
    for loss in (logits.dkd_loss, logits.wsld_loss):
        for label in range(3):
            value, gradient = jax.value_and_grad(
                lambda s, loss=loss, label=label: jnp.sum(loss(s, -x, jnp.asarray([label])))
            )(x)
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()


def _standardized64(x):
    return (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


def test_standardised_logits_have_mean_zero_and_deviation_one_whatever_their_scale():
    x = np.random.default_rng(0).standard_normal((5, 7))
    for scale, shift in ((1, 0), (1e-3, 1), (1e4, -5)):
        found = logits.standardized(jnp.asarray(scale * x + shift))
        np.testing.assert_allclose(found, _standardized64(x), rtol=2e-3, atol=2e-3)
    constant = jnp.full((2, 7), 0.1)
    np.testing.assert_array_equal(logits.standardized(constant), 0)
    gradient = jax.grad(lambda x: jnp.sum(jnp.square(logits.standardized(x))))(constant)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", ["kd", "dkd", "wsld", "dist", "r2kd"])
def test_standardize_puts_the_transform_in_front_of_the_softmax(name):
    rng = np.random.default_rng(0)
    raw = [3 * x + 1 for x in rng.standard_normal((2, 6, 9))]
    batch = {"label": jnp.arange(6)}

    def loss(student, teacher, standardize):
        outputs = (Outputs(jnp.asarray(x), jnp.zeros(())) for x in (student, teacher))
        objective = objectives.create(name, temperature=2.0, standardize=standardize)
        return objective.loss(objectives.ObjectiveState(), *outputs, batch)[0]

    found = loss(*raw, standardize=True)
    wanted = loss(*(_standardized64(x) for x in raw), standardize=False)
    if name == "wsld":  # whose cross-entropies are those of the logits as they are
        own, other = (_log_softmax64(x)[np.arange(6), np.arange(6)] for x in raw)
        s, t = (_log_softmax64(_standardized64(x) / 2) for x in raw)
        weight = 1 - np.exp(-own / (other - 1e-7))
        wanted = -own - 2.5 * 4 * weight * (np.exp(t) * s).sum(-1)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)


def _log_softmax64(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", ["dkd", "wsld"])
def test_a_mixed_image_counts_by_share_for_both_its_labels(name):
    rng = np.random.default_rng(0)
    outputs = [Outputs(jnp.asarray(x), jnp.zeros(())) for x in rng.standard_normal((2, 4, 5))]
    labels, others = jnp.arange(4), jnp.arange(4)[::-1]

    def loss(**batch):
        return objectives.create(name).loss(objectives.ObjectiveState(), *outputs, batch)[0]

    mixed = loss(label=labels, other_label=others, share=jnp.float32(0.3))
    wanted = 0.3 * loss(label=labels) + 0.7 * loss(label=others)
    np.testing.assert_allclose(mixed, wanted, rtol=1e-6)


def test_values_and_shapes_that_do_not_fit_are_named():
    with pytest.raises(errors.InputError, match="beta is -1"):
        objectives.create("dkd", beta=-1)
    with pytest.raises(errors.InputError, match="alpha is 0"):
        objectives.create("wsld", alpha=0)
    with pytest.raises(errors.InputError, match="there is one class"):
        logits.dkd_loss(jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.zeros(2, int))
    with pytest.raises(errors.InputError, match=r"\(2, 3\) and teacher \(2, 4\)"):
        logits.kd_loss(jnp.ones((2, 3)), jnp.ones((2, 4)), temperature=1.0)
