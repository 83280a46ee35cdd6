import functools

import numpy as np
import pytest

from experiments import theory
from experiments.theory import code, formulas
from experiments.theory.embeddings import turned

# The code computes in float32. Similarities of up to 1 are divided by temperatures from 0.01, and
# float32 keeps 100 to 4e-6: a relation is off by that much, a mean over relations by less.
_FLOAT32 = {"rtol": 2e-6, "atol": 2e-6}


@functools.cache
def _curves(make):
    return make(points=11)


def _lines(make, kind):
    return {line.name: line for line in _curves(make).series if line.kind == kind}


@pytest.mark.parametrize("make", theory.ALL, ids=lambda make: make.__name__)
def test_the_code_is_the_formula_in_float64(make):
    computed, derived = _lines(make, "code"), _lines(make, "formula")
    assert computed.keys() == derived.keys()
    assert computed
    for name, line in computed.items():
        assert line.x == derived[name].x
        np.testing.assert_allclose(line.y, derived[name].y, **_FLOAT32, err_msg=name)


@pytest.mark.parametrize("make", theory.ALL, ids=lambda make: make.__name__)
@pytest.mark.long
def test_figures_can_be_drawn(make):
    curves = _curves(make)
    assert curves.name == make.__name__
    assert curves.note.endswith(".")
    assert all([curves.title, curves.x_label, curves.y_label, curves.formula])
    assert len({(line.name, line.kind) for line in curves.series}) == len(curves.series)
    for line in curves.series:
        assert len(line.x) == len(line.y) == 11
        assert all(np.diff(line.x) > 0)
        assert np.isfinite(line.y).all()
        assert not curves.log_x or min(line.x) > 0
        assert not curves.log_y or min(line.y) > 0
        assert {type(value) for value in (*line.x, *line.y)} == {float}
    assert make(points=11) == curves


def test_the_gradient_is_never_longer_than_its_bound():
    bound = _lines(theory.gradient_against_temperature, "bound")["2 / tau_s"].y
    for line in _lines(theory.gradient_against_temperature, "code").values():
        assert (np.array(line.y) < bound).all()


def test_the_loss_is_never_below_the_teachers_entropy_and_comes_to_log_k():
    bounds = _lines(theory.loss_against_temperature, "bound")
    given = theory.embeddings()
    for name, line in _lines(theory.loss_against_temperature, "code").items():
        assert min(line.y) > bounds[f"entropy of p_t, {name}"].y[0]
    assert bounds["log K"].y[0] == pytest.approx(np.log(2048))
    assert code.loss(given, 1e4, 0.1) == pytest.approx(np.log(2048), abs=1e-3)


def test_a_cold_teacher_that_meets_the_own_key_gives_infonce():
    lines = _lines(theory.infonce_limit, "code")
    gap = np.subtract(lines["RRD"].y, lines["InfoNCE"].y)
    assert abs(gap[0]) < 2e-6 * lines["InfoNCE"].y[0]
    assert gap[-1] > 1
    assert (np.diff(gap) > -1e-5).all()


def test_equal_temperatures_give_the_divergence_and_the_entropy():
    lines = _lines(theory.kl_at_equal_temperatures, "code")
    entropy = _lines(theory.kl_at_equal_temperatures, "bound")["entropy of p_t"].y
    parts = np.add(lines["KL(p_t || p_s)"].y, entropy)
    np.testing.assert_allclose(lines["RRD"].y, parts, **_FLOAT32)


def test_the_floor_is_reached_at_equal_temperatures_where_student_and_teacher_agree():
    equal, *presets = _lines(theory.entropy_floor, "code").values()
    bounds = _lines(theory.entropy_floor, "bound")
    np.testing.assert_allclose(equal.y[0], bounds["entropy of p_t, tau_t = 0.10"].y[0], rtol=2e-6)
    for line in (equal, *presets):
        assert (np.diff(line.y) > 0).all()
    sharp_student, sharp_teacher = presets
    assert sharp_student.y[0] > bounds["entropy of p_t, tau_t = 0.10"].y[0] + 0.1
    assert sharp_teacher.y[0] > bounds["entropy of p_t, tau_t = 0.02"].y[0] + 0.1


@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.04, 0.1), (0.1, 0.02)])
def test_with_unequal_temperatures_a_student_of_another_length_reaches_the_floor(tau_s, tau_t):
    given = theory.embeddings()
    given = given._replace(student=given.teacher * np.float32(tau_s / tau_t))
    floor = formulas.entropy(given, tau_t)
    np.testing.assert_allclose(code.loss(given, tau_s, tau_t), floor, rtol=2e-6)
    # At the floor there is nothing to learn; float32 leaves a rest, divided by tau_s.
    assert code.gradient(given, tau_s, tau_t) < 1e-5 / tau_s


def test_embeddings_are_as_alike_as_they_are_said_to_be():
    given = theory.embeddings()
    for array in given:
        np.testing.assert_allclose(np.linalg.norm(array, axis=-1), 1, rtol=1e-6)
    assert np.mean((given.student * given.teacher).sum(-1)) == pytest.approx(0.8, abs=0.02)
    similar = np.sort(given.teacher @ given.memory.T, axis=-1)[:, -200:]  # of its class
    assert np.median(similar) == pytest.approx(0.64, abs=0.05)
    cosines = (turned(given, 60.0).student * given.teacher).sum(-1)
    np.testing.assert_allclose(cosines, 0.5, atol=1e-6)
