"""Optimizers by name: first steps, invalid names and invalid options."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rrd_jax import errors, optim

_PARAMS = {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full(3, 2.0)}


def _constant(step):
    return 0.5


def _moved(name, gradient=0.0, schedule=_constant, **fields):
    """Returns the parameters after one step."""
    optimizer = optim.create(name, schedule, **fields)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), _PARAMS)
    state = optimizer.init(_PARAMS)
    updates, _ = optimizer.update(gradients, state, _PARAMS, value=jnp.float32(1))
    return optax.apply_updates(_PARAMS, updates)


def test_sgd_follows_pytorchs_rule():
    rate, momentum, decay = 0.1, 0.9, 0.01
    optimizer = optim.sgd(lambda step: rate, momentum=momentum, weight_decay=decay)
    p, buffer = np.float64(2.0), 0.0
    params = {"w": jnp.float32(p)}
    state = optimizer.init(params)
    for gradient in (0.5, -1.0, 0.25):
        buffer = momentum * buffer + gradient + decay * p
        p = p - rate * buffer
        updates, state = optimizer.update({"w": jnp.float32(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], p, rtol=1e-6)


def test_gradients_are_clipped_by_global_norm_before_weight_decay():
    optimizer = optim.sgd(lambda step: 1.0, momentum=0.0, weight_decay=0.5, clip_norm=1.0)
    params = {"a": jnp.float32(2.0), "b": jnp.float32(0.0)}
    state = optimizer.init(params)
    for a, b, clipped in ((3.0, 4.0, (0.6, 0.8)), (0.3, 0.4, (0.3, 0.4))):
        gradients = {"a": jnp.float32(a), "b": jnp.float32(b)}
        updates, state = optimizer.update(gradients, state, params)
        expected = [-(clipped[0] + 1.0), -clipped[1]]
        np.testing.assert_allclose([updates["a"], updates["b"]], expected, rtol=1e-6)


def test_the_state_of_sgd_has_the_structure_in_checkpoints():
    plain = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(_constant, momentum=0.9))
    actual = optim.create("sgd", _constant, weight_decay=0.1).init(_PARAMS)
    assert jax.tree.structure(actual) == jax.tree.structure(plain.init(_PARAMS))


@pytest.mark.parametrize("name", ["sgd", "adam", "rmsprop", "adamw", "lamb", "lion", "muon"])
def test_the_mask_excludes_norms_and_biases_from_the_decay(name):
    for everything in (True, False):
        moved = _moved(name, weight_decay=0.1, decay_norm_and_bias=everything)
        assert float(moved["kernel"].max()) < 2.0
        # Decoupled weight decay subtracts rate * decay * parameters.
        if name in ("adamw", "lion", "muon"):
            np.testing.assert_allclose(moved["kernel"], 2.0 * (1 - 0.5 * 0.1), rtol=1e-6)
        assert bool((moved["bias"] == 2.0).all()) != everything


@pytest.mark.parametrize("old", [False, True])
def test_the_mask_excludes_tokens_and_positions_except_for_old_workdirs(old):
    names = ("cls_token", "dist_token", "reg_token", "pos_embed", "latent")
    params = {name: jnp.ones((1, 2, 3)) for name in names}
    optimizer = optim.create(
        "adamw", _constant, weight_decay=0.1, decay_norm_and_bias=False, decay_tokens=old
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    decayed = {name for name, update in updates.items() if update.any()}
    assert decayed == (set(names) if old else {"latent"})


def test_gradient_transformations_use_the_schedules_rate():
    moved, expected = _moved("scale_by_adam", 3.0), _moved("adam", 3.0)
    np.testing.assert_allclose(moved["kernel"], expected["kernel"])


def test_a_factory_without_schedules_receives_the_rate_of_each_step():
    gradients = jax.tree.map(jnp.ones_like, _PARAMS)

    def update(optimizer):
        first, state = optimizer.update(gradients, optimizer.init(_PARAMS), _PARAMS)
        second, _ = optimizer.update(gradients, state, _PARAMS)
        return np.array([first["bias"][0], second["bias"][0]])

    grown, constant = update(optim.create("sm3", lambda step: 0.1 * (step + 1))), optax.sm3(0.2)
    np.testing.assert_allclose(grown, update(constant) * [0.5, 1], rtol=1e-6)


def test_optimizers_that_need_the_loss_receive_it():
    moved = _moved("scale_by_polyak", 2.0, options={"max_learning_rate": 0.25})
    # The loss is 1 and the gradient's squared norm is 9 * 4, so the rate is 1 / 36.
    np.testing.assert_allclose(moved["bias"], np.full(3, 2.0 - 0.5 * 2 / 36), rtol=1e-5)


def signed(learning_rate, weight_decay: float = 0.0, scale: float = 1.0):
    del weight_decay
    return optax.chain(optax.scale_by_sign(), optax.sgd(lambda step: scale * learning_rate(step)))


def no_rate():
    return optax.sgd(0.1)


def raises(learning_rate):
    raise KeyError("mine")


def number(learning_rate):
    return 3


def exits(learning_rate):
    raise SystemExit(3)


def integers(learning_rate):
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u: u.astype(jnp.int32), updates)
    )


def grows(learning_rate):
    grow = optax.GradientTransformation(
        lambda params: jnp.zeros(1), lambda updates, state, params: (updates, jnp.zeros(2))
    )
    return optax.chain(grow, optax.sgd(learning_rate))


def ascends(learning_rate):
    return optax.scale_by_learning_rate(learning_rate, flip_sign=False)


def waits(learning_rate):
    return optax.MultiSteps(optax.sgd(learning_rate), 1000).gradient_transformation()


def test_an_optimizer_by_import_path_may_accumulate_gradients():
    optim.create(f"{__name__}:waits", _constant)


def test_an_optimizer_by_import_path_receives_its_options():
    moved = _moved(f"{__name__}:signed", -7.0, options={"scale": 2}, weight_decay=0.1)
    np.testing.assert_allclose(moved["kernel"], np.full((2, 3), 3.0))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("sgd", {"momentum": 1.0}, "momentum is 1"),
        ("sgd", {"weight_decay": -1}, "weight_decay is -1"),
        ("sgd", {"clip_norm": -1}, "clip_norm is -1"),
        ("sgd", {"nesterov": True, "momentum": 0.0}, "nesterov is True, .*momentum is 0"),
        ("adamq", {}, "optimizer.name 'adamq'.*'adam'"),
        ("scale_by_rprop", {}, "unknown optimizer.name 'scale_by_rprop'"),
        ("global_norm", {}, "global_norm"),
        ("adam", {"options": {"beta1": 0.9}}, "optimizer.options.beta1"),
        ("adam", {"options": {"b1": "x"}}, "'optimizer.options.b1' of optimizer 'adam' is 'x'"),
        ("adamw", {"options": {"learning_rate": 1.0}}, "unknown option .*learning_rate"),
        ("adamw", {"options": {"b1": 5.0}}, r"options.b1 is 5.0, .*\[0, 1\)"),
        ("adamw", {"options": {"eps": -1.0}}, "options.eps is -1.0, .*at least 0"),
        ("adamw", {"options": {"eps": 1e9}}, "options.eps is .*at most"),
        ("adamw", {"options": {"b1": float("nan")}}, "options.b1 is nan"),
        ("muon", {"options": {"ns_steps": 101}}, "ns_steps is 101, .*100"),
        ("muon", {"options": {"foo": 1}}, "foo' of optimizer 'muon'; .*ns_steps"),
        ("lookahead", {}, "value for 'fast_optimizer'"),
        ("lbfgs", {}, "'value_fn'"),
        ("prodigy", {"weight_decay": 0.1, "decay_norm_and_bias": False}, "decays all parameters"),
        ("nowhere:x", {}, "no module 'nowhere'"),
        (f"{__name__}:no_rate", {}, "argument 'learning_rate'"),
        (f"{__name__}:raises", {}, "'mine'"),
        (f"{__name__}:number", {}, "returns int, .*GradientTransformation"),
        (f"{__name__}:exits", {}, "SystemExit: 3"),
        (f"{__name__}:integers", {}, "updates of other shapes or types"),
        (f"{__name__}:grows", {}, "shapes or types of its own state"),
        (f"{__name__}:signed", {"options": {"scal": 1.0}}, "'scale'"),
        # Values that Optax accepts, and then trains with.
        ("adamw", {"options": {"mu_dtype": "int8"}}, "for each parameter as int8"),
        ("lion", {"options": {"mu_dtype": "bool"}}, "for each parameter as bool"),
        ("sgd", {"options": {"accumulator_dtype": "uint8"}}, "for each parameter as uint8"),
        ("schedule_free_sgd", {"options": {"b1": 0.0}}, "options.b1=0.0 .* not finite"),
        ("scale_by_polyak", {"options": {"max_learning_rate": 0.0}}, "does not change parameters"),
        (f"{__name__}:ascends", {}, "along their gradient"),
    ],
)
def test_invalid_optimizers_are_refused(name, fields, message):
    with pytest.raises(errors.InputError, match=message):
        optim.create(name, _constant, **fields)


@pytest.mark.parametrize("name", ["adafactor", "ademamix", "cocob", "galore", "lars", "prodigy"])
def test_factories_of_optax_and_contrib_are_found_by_name(name):
    optim.create(name, _constant, weight_decay=1e-4)


# Optax warns about names that have moved.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.long
def test_every_function_of_optax_is_an_optimizer_or_is_refused():
    refused = []
    for name in sorted(vars(optax) | vars(optax.contrib)):
        try:
            optim.create(name, _constant, weight_decay=1e-4)
        except errors.InputError:
            refused.append(name)
    assert {"lookahead", "global_norm", "masked", "sophia"} <= set(refused)


def _free(optimizer, steps=3):
    """Returns (state, parameters) after updates of {"student", "objectives"} by a gradient of 1."""
    params = {"student": _PARAMS, "objectives": {"rrd": {"kernel": jnp.ones(4)}}}
    state = optimizer.init(params)
    for _ in range(steps):
        gradients = jax.tree.map(jnp.ones_like, params)
        updates, state = optimizer.update(gradients, state, params, value=jnp.float32(1))
        params = optax.apply_updates(params, updates)
    return state, params


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_schedule_free_optimizers_evaluate_with_optaxs_parameters(name):
    state, params = _free(optim.create(name, _constant, weight_decay=1e-3))
    is_free = lambda node: hasattr(node, "z")  # noqa: E731
    inner = next(filter(is_free, jax.tree.leaves(state, is_leaf=is_free)))
    expected = optax.contrib.schedule_free_eval_params(inner, params)
    actual = optim.evaluation_params(state, params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), actual, expected)
    assert np.abs(actual["student"]["bias"] - params["student"]["bias"]).max() > 1e-3


def test_schedule_free_optimizers_evaluate_frozen_parameters_as_they_are():
    free = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)
    state, params = _free(optim.all_but(free, ["student"]))
    actual = optim.evaluation_params(state, params)
    assert bool((actual["student"]["kernel"] == 2).all())
    assert bool(
        (actual["objectives"]["rrd"]["kernel"] != params["objectives"]["rrd"]["kernel"]).all()
    )


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon", "lamb"])
def test_other_optimizers_evaluate_with_the_trained_parameters(name):
    state, params = _free(optim.create(name, _constant), steps=1)
    assert optim.evaluation_params(state, params) is params
