import gc
import sys

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats import multitest

from experiments.study import statistics
from rrd_jax import errors

_LEVELS = {
    "ce": {0: 91.41, 1: 91.52, 2: 91.48, 3: 91.60, 4: 91.39},
    "kd": {0: 91.80, 1: 91.93, 2: 91.61, 3: 91.95, 4: 91.99},
    "crd": {0: 91.45, 1: 91.99, 2: 91.52, 3: 91.70, 4: 91.42},
    # Seed 3 failed.
    "rrd": {0: 92.00, 1: 92.21, 2: 92.11, 4: 92.02},
}


def _array(level, seeds=(0, 1, 2, 3, 4)):
    return np.array([_LEVELS[level][seed] for seed in seeds])


def test_the_interval_of_a_level_equals_that_of_scipy():
    summary = statistics.summarize(_LEVELS["rrd"])
    figures = _array("rrd", (0, 1, 2, 4))
    interval = stats.t.interval(0.95, 3, figures.mean(), stats.sem(figures))
    assert (summary.n, summary.seeds) == (4, (0, 1, 2, 4))
    np.testing.assert_allclose(
        [summary.mean, summary.std, summary.low, summary.high],
        [figures.mean(), figures.std(ddof=1), *interval],
        rtol=1e-12,
    )


def test_one_seed_has_only_a_mean():
    assert statistics.summarize({3: 90.5}) == statistics.Summary(1, 90.5, seeds=(3,))
    assert statistics.summarize({}) == statistics.Summary(0)


def test_equal_seeds_have_an_interval_without_width():
    summary = statistics.summarize({0: 90.5, 1: 90.5, 2: 90.5})
    assert (summary.mean, summary.std, summary.low, summary.high) == (90.5, 0.0, 90.5, 90.5)


def test_differences_equal_the_paired_test_of_scipy_with_holm_of_statsmodels():
    differences = statistics.differences(_LEVELS, "ce")
    seeds = {"kd": (0, 1, 2, 3, 4), "crd": (0, 1, 2, 3, 4), "rrd": (0, 1, 2, 4)}
    assert list(differences) == list(seeds)
    tests = {
        name: stats.ttest_rel(_array(name, common), _array("ce", common))
        for name, common in seeds.items()
    }
    p = [test.pvalue for test in tests.values()]
    adjusted = multitest.multipletests(p, method="holm")[1]
    for (name, test), corrected in zip(tests.items(), adjusted, strict=True):
        difference, interval = differences[name], test.confidence_interval(0.95)
        paired = _array(name, seeds[name]) - _array("ce", seeds[name])
        np.testing.assert_allclose(
            [difference.mean, difference.low, difference.high, difference.std],
            [paired.mean(), interval.low, interval.high, paired.std(ddof=1)],
            rtol=1e-9,
        )
        np.testing.assert_allclose(
            [difference.p, difference.p_adjusted], [test.pvalue, corrected], rtol=1e-9
        )
        assert (difference.n, difference.seeds) == (len(seeds[name]), seeds[name])
    assert {name: difference.verdict for name, difference in differences.items()} == {
        "kd": "better",
        "crd": "not distinguishable",
        "rrd": "better",
    }


def test_equal_values_are_not_distinguishable_with_p_1():
    values = dict.fromkeys(range(5), 91.2)
    difference = statistics.differences({"a": values, "b": dict(values)}, "b")["a"]
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert difference.p == difference.p_adjusted == 1
    assert difference.verdict == "not distinguishable"
    assert difference.detectable is None


@pytest.mark.parametrize(("n", "verdict"), [(2, "not distinguishable"), (6, "better")])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_an_equal_difference_on_every_seed_uses_the_sign_test(n, verdict, kind):
    level = {seed: float(kind(90 + seed + 0.3)) for seed in range(n)}
    baseline = {seed: float(kind(90 + seed)) for seed in range(n)}
    difference = statistics.differences({"a": level, "b": baseline}, "b")["a"]
    limits = [difference.mean, difference.low, difference.high]
    np.testing.assert_allclose(limits, 0.3, atol=1e-5)
    assert difference.low == difference.mean == difference.high
    assert difference.p == pytest.approx(2.0 ** (1 - n))
    assert difference.verdict == verdict


def test_a_difference_of_one_imagenet_image_is_not_a_rounding_error():
    level = {0: 90.002, 1: 91.0, 2: 92.0}
    baseline = {0: 90.0, 1: 91.0, 2: 92.0}
    difference = statistics.differences({"a": level, "b": baseline}, "b")["a"]
    assert difference.std > 0
    assert difference.low < 0 < difference.high


@pytest.mark.long
def test_one_common_seed_has_no_verdict_and_does_not_count_for_holm():
    levels = {**_LEVELS, "new": {4: 95.0}, "lost": {}}
    differences = statistics.differences(levels, "ce")
    new, lost = differences["new"], differences["lost"]
    assert new.verdict == "one seed"
    assert new.mean == pytest.approx(95.0 - 91.39)
    assert (new.low, new.p, new.p_adjusted) == (None, None, None)
    assert (lost.verdict, lost.n, lost.mean) == ("no common seed", 0, None)
    assert differences["kd"] == statistics.differences(_LEVELS, "ce")["kd"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "91"])
def test_a_value_that_is_not_finite_is_refused_by_name(value):
    with pytest.raises(errors.InputError, match="seed 2 of 'rrd' .*leave out"):
        statistics.differences({"ce": {2: 1.0}, "rrd": {2: value}}, "ce")
    with pytest.raises(errors.InputError, match="leave out failed seeds"):
        statistics.summarize({2: value})


def test_a_seed_that_is_text_is_refused():
    with pytest.raises(errors.InputError, match="seed '2' of 'rrd' must be an integer"):
        statistics.differences({"ce": {2: 1.0}, "rrd": {"2": 1.0}}, "ce")


def test_missing_statsmodels_raises_an_error_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    with pytest.raises(errors.UnavailableError, match=r"pip install 'rrd_jax\[studies\]'"):
        statistics.differences(_LEVELS, "ce")


def test_an_unknown_baseline_is_refused():
    with pytest.raises(errors.InputError, match="unknown level 'CE'.*known: ce, kd, crd, rrd"):
        statistics.differences(_LEVELS, "CE")


def _is_plausible(count, total, share):
    """Returns True if a binomial count agrees with a share, at a level of 0.001."""
    return stats.binomtest(int(count), total, share).pvalue > 1e-3


@pytest.mark.long
def test_without_an_effect_one_study_in_twenty_reports_an_effect():
    rng = np.random.default_rng(0)
    studies, single_comparisons, whole_studies = 1000, 0, 0
    # multipletests collects garbage in every call, which takes 20 ms.
    gc.freeze()
    for _ in range(studies):
        figures = 91 + 0.3 * rng.standard_normal((5, 5))
        levels = {str(i): dict(enumerate(row)) for i, row in enumerate(figures)}
        differences = statistics.differences(levels, "0")
        single_comparisons += differences["1"].p < 0.05
        whole_studies += any(x.verdict != "not distinguishable" for x in differences.values())
    gc.unfreeze()
    assert _is_plausible(single_comparisons, studies, 0.05)
    # Holm's method limits the rate of a study with four comparisons to 5 %.
    assert stats.binomtest(whole_studies, studies, 0.05, alternative="greater").pvalue > 1e-3
    assert whole_studies > 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_have_the_nominal_coverage_of_the_true_mean(n):
    rng = np.random.default_rng(n)
    draws, covered = 500, 0
    for row in 91 + 0.3 * rng.standard_normal((draws, n)):
        summary = statistics.summarize(dict(enumerate(row)))
        covered += summary.low < 91 < summary.high
    assert _is_plausible(covered, draws, 0.95)


def test_the_detectable_difference_has_80_percent_power():
    for n, comparisons in [(2, 1), (2, 400), (3, 1), (3, 28), (5, 4), (10, 1)]:
        detectable = statistics.detectable_difference(0.5, n, comparisons)
        critical = stats.t.ppf(1 - 0.05 / comparisons / 2, n - 1)
        power = 1 - stats.nct.cdf(critical, n - 1, detectable / 0.5 * np.sqrt(n))
        assert power == pytest.approx(0.8, abs=1e-4)
    difference = statistics.differences(_LEVELS, "ce")["crd"]
    expected = statistics.detectable_difference(difference.std, 5, 3)
    assert difference.detectable == pytest.approx(expected)
