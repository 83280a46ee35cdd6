import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rrd_jax import errors, objectives
from rrd_jax.objectives import ObjectiveState, adapters, staged
from tests import golden
from tests.objectives import adapted


@pytest.mark.parametrize("name", ["ab", "fsp"])
def test_golden_stage_losses_without_parameters(name):
    file = golden.load(name)
    student, teacher = adapted.maps(file, "s"), adapted.maps(file, "t")
    objective = objectives.create(name)

    def outputs(maps):
        if name == "fsp":  # which reads the stem too
            return adapted.outputs(maps)._replace(maps=tuple(maps))
        return adapted.outputs([0 * x for x in maps], preactivations=maps)

    state = objective.init(jax.random.key(0), outputs(student), outputs(teacher))
    assert not jax.tree.leaves(state)

    def loss(params, student):
        return objective.stage.loss(state, outputs(student), outputs(teacher), {})[0]

    value, (_, gradients) = adapted.jitted(loss)((), student)
    adapted.check(value, file["out/loss"])
    adapted.check_gradients(file, adapted.torch_maps(gradients))
    after, _ = objective.loss(state, outputs(student), outputs(teacher), {})
    np.testing.assert_array_equal(after, np.zeros(4))
    assert (objective.stage.student, objective.stage.epochs) == (True, 30)
    assert objective.stage.learning_rate is None


def test_golden_ab_with_connectors():
    file = golden.load("ab_connector")
    student, teacher = adapted.maps(file, "s"), adapted.maps(file, "t")
    objective = objectives.create("ab")
    teacher_outputs = adapted.outputs(teacher)
    fresh = objective.init(jax.random.key(0), adapted.outputs(student), teacher_outputs)
    frozen, names, layers = {}, {}, {}
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        if s.shape == t.shape:
            frozen[f"tap{i}"] = {}
            continue
        own = f"connector.connectors.{i}"
        layers[i] = adapters.regressor(s.shape, t.shape, slope=1.0)
        names[i] = adapted.layer_names(layers[i], [f"{own}.conv"], [f"{own}.bn"])
        frozen[f"tap{i}"] = adapted.read(file, layers[i], names[i])
    assert list(names) == [0, 2]
    assert jax.tree.map(jnp.shape, fresh.frozen) == jax.tree.map(jnp.shape, frozen)

    def loss(frozen, student):
        state = ObjectiveState(frozen=frozen)
        return objective.stage.loss(state, adapted.outputs(student), teacher_outputs, {})[0]

    value, (of_frozen, of_student) = adapted.jitted(loss)(frozen, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_maps(of_student)
    for i in names:
        gradients |= adapted.torch_names(of_frozen[f"tap{i}"], layers[i], names[i])
        adapted.check_running(file, layers[i], frozen[f"tap{i}"], names[i], student[i])
    adapted.check_gradients(file, gradients)


@pytest.mark.parametrize(("name", "order"), [("ft", 1), ("ft_p2", 2)])
def test_golden_ft_criterion(name, order):
    file = golden.load(name)
    teacher = adapted.nhwc(file["in/f_t"])

    def loss(params, student):
        return staged.ft_loss(student, teacher, order=order)

    value, (_, gradient) = adapted.jitted(loss)((), adapted.nhwc(file["in/f_s"]))
    adapted.check(value, file["out/loss"])
    adapted.check_gradients(file, {"in/f_s": np.transpose(gradient, (0, 3, 1, 2))})


def _paraphraser(file):
    layer = adapters.Layer(0, bias=True, norm=False)
    encoder, decoder = [layer] * 3, [layer._replace(transposed=True)] * 3
    modules = {
        part: [f"paraphraser.{part}.{position}" for position in (0, 3, 6)]
        for part in ("encoder", "decoder")
    }
    layers = {"encoder": encoder, "decoder": decoder}
    names = {part: adapted.layer_names(layers[part], modules[part], None) for part in layers}
    params = {part: adapted.read(file, layers[part], names[part]) for part in layers}
    return params, layers, names


def test_golden_ft_with_translator_and_paraphraser():
    file = golden.load("ft_full")
    student, teacher = adapted.nhwc(file["in/f_s"]), adapted.nhwc(file["in/f_t"])
    frozen, _, _ = _paraphraser(file)
    layers = staged._encoder(8, 6, norm=True)
    names = adapted.sequential(layers, "translator.encoder")
    params = adapted.read(file, layers, names)
    objective = objectives.create("ft")
    teacher = adapted.outputs([teacher])
    fresh = objective.init(jax.random.key(0), adapted.outputs([student]), teacher)
    state = ObjectiveState(params, frozen)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, state)

    def loss(params, x):
        own = state._replace(params=params)
        return objective.loss(own, adapted.outputs([x]), teacher, {})[0]

    value, (of_params, of_student) = adapted.jitted(loss)(params, student)
    adapted.check(value, file["out/loss"])
    gradients = adapted.torch_names(of_params, layers, names)
    gradients["in/f_s"] = np.transpose(of_student, (0, 3, 1, 2))
    adapted.check_gradients(file, gradients)
    adapted.check_running(file, layers, params, names, student)
    factor, _ = staged.paraphrase(frozen, teacher.maps[-1])
    adapted.check(factor, golden.to_nhwc(file["out/factor_t"]))


def test_golden_ft_stage():
    file = golden.load("ft_paraphraser_init")
    frozen, layers, names = _paraphraser(file)
    teacher = adapted.nhwc(file["in/f_t"])
    objective = objectives.create("ft")

    def loss(frozen, x):
        outputs = adapted.outputs([x])
        return objective.stage.loss(ObjectiveState(frozen=frozen), outputs, outputs, {})[0]

    value, (of_frozen, of_teacher) = adapted.jitted(loss)(frozen, teacher)
    adapted.check(value, file["out/loss"])
    np.testing.assert_array_equal(of_teacher, 0)  # the teacher is constant
    gradients = {}
    for part in layers:
        gradients |= adapted.torch_names(of_frozen[part], layers[part], names[part])
    own = {k: v for k, v in file.items() if k != "grad/in/f_t"}
    adapted.check_gradients(own, gradients)
    _, made = staged.paraphrase(frozen, teacher)
    adapted.check(made, golden.to_nhwc(file["out/rec"]))
    assert (objective.stage.student, objective.stage.learning_rate) == (False, 0.01)


def test_ft_has_no_loss_for_equal_factors_and_a_finite_gradient_there():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 4, 5)), jnp.float32)
    for factor in (x, 0 * x):
        loss = jax.value_and_grad(lambda s, t: jnp.sum(staged.ft_loss(s, t)))
        value, gradient = loss(factor, factor)
        assert value == 0
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", ["ab", "ft", "fsp"])
def test_descending_the_stages_loss_lowers_it(name):
    rng = np.random.default_rng(0)
    taps = [(8, 8, 6), (4, 4, 8)]
    student, teacher = (
        [jnp.asarray(rng.standard_normal((4, *tap)), jnp.float32) for tap in taps] for _ in range(2)
    )
    objective = objectives.create(name)
    both = adapted.outputs(student), adapted.outputs(teacher)
    state = objective.init(jax.random.key(0), *both)

    def loss(frozen, student):
        own = state._replace(frozen=frozen)
        return objective.stage.loss(own, adapted.outputs(student), both[1], {})[0]

    step, trained, values = adapted.jitted(loss), (state.frozen, student), []
    rate = {"ab": 100.0, "ft": 1.0, "fsp": 50.0}[name]
    for _ in range(20):
        value, gradients = step(*trained)
        trained = jax.tree.map(lambda x, g: x - rate * g, trained, gradients)
        values.append(value)
    assert values[-1] < 0.98 * values[0]
    assert jax.tree.leaves(gradients[1])[0].any() == objective.stage.student


def test_ab_asks_for_the_margin_on_the_teachers_side():
    teacher = jnp.asarray([2.0, 2.0, -2.0, -2.0]).reshape(4, 1, 1, 1)
    student = jnp.asarray([1.5, 0.5, -1.5, -0.5]).reshape(4, 1, 1, 1)
    found = staged.ab_loss([student], [teacher])
    np.testing.assert_allclose(found, 3e-3 * np.array([0, 0.25, 0, 0.25]), rtol=1e-6)


def test_other_channels_and_options_out_of_range_are_refused():
    outputs = adapted.outputs([jnp.ones((2, 4, 4, 3))])
    other = adapted.outputs([jnp.ones((2, 4, 4, 5))])
    with pytest.raises(errors.InputError, match="taps are 4x4x1 4x4x3, the teacher's 4x4x1 4x4x5"):
        objectives.create("fsp").init(jax.random.key(0), outputs, other)
    with pytest.raises(errors.InputError, match="needs two or more maps"):
        staged.fsp_loss(outputs.maps, other.maps)
    for name, option in (
        ("ab", {"margin": 0}),
        ("ab", {"epochs": 0}),
        ("fsp", {"learning_rate": -1.0}),
        ("ft", {"rate": 1.5}),
        ("ft", {"order": 3}),
    ):
        with pytest.raises(errors.InputError, match=next(iter(option))):
            objectives.create(name, **option)
