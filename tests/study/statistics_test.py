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
    "rrd": {0: 92.00, 1: 92.21, 2: 92.11, 4: 92.02},  # seed 3 failed
}


def _array(level, seeds=(0, 1, 2, 3, 4)):
    return np.array([_LEVELS[level][seed] for seed in seeds])


def test_a_level_has_scipys_interval():
    found = statistics.summarize(_LEVELS["rrd"])
    figures = _array("rrd", (0, 1, 2, 4))
    interval = stats.t.interval(0.95, 3, figures.mean(), stats.sem(figures))
    assert (found.n, found.seeds) == (4, (0, 1, 2, 4))
    np.testing.assert_allclose(
        [found.mean, found.std, found.low, found.high],
        [figures.mean(), figures.std(ddof=1), *interval],
        rtol=1e-12,
    )


def test_one_seed_has_a_mean_and_nothing_else():
    assert statistics.summarize({3: 90.5}) == statistics.Summary(1, 90.5, seeds=(3,))
    assert statistics.summarize({}) == statistics.Summary(0)


def test_equal_seeds_have_an_interval_without_width():
    found = statistics.summarize({0: 90.5, 1: 90.5, 2: 90.5})
    assert (found.mean, found.std, found.low, found.high) == (90.5, 0.0, 90.5, 90.5)


def test_differences_are_scipys_paired_test_after_statsmodels_holm():
    found = statistics.differences(_LEVELS, "ce")
    seeds = {"kd": (0, 1, 2, 3, 4), "crd": (0, 1, 2, 3, 4), "rrd": (0, 1, 2, 4)}
    assert list(found) == list(seeds)
    tests = {
        name: stats.ttest_rel(_array(name, common), _array("ce", common))
        for name, common in seeds.items()
    }
    p = [test.pvalue for test in tests.values()]
    adjusted = multitest.multipletests(p, method="holm")[1]
    for (name, test), corrected in zip(tests.items(), adjusted, strict=True):
        difference, interval = found[name], test.confidence_interval(0.95)
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
    assert {name: difference.verdict for name, difference in found.items()} == {
        "kd": "better",
        "crd": "not distinguishable",
        "rrd": "better",
    }


def test_equal_figures_are_not_distinguishable_with_p_1():
    same = dict.fromkeys(range(5), 91.2)
    found = statistics.differences({"a": same, "b": dict(same)}, "b")["a"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert (found.p, found.p_adjusted, found.verdict) == (1, 1, "not distinguishable")
    assert found.detectable is None


@pytest.mark.parametrize(("n", "verdict"), [(2, "not distinguishable"), (6, "better")])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_the_same_difference_on_every_seed_is_judged_by_the_sign_test(n, verdict, kind):
    level = {seed: float(kind(90 + seed + 0.3)) for seed in range(n)}
    baseline = {seed: float(kind(90 + seed)) for seed in range(n)}
    found = statistics.differences({"a": level, "b": baseline}, "b")["a"]
    np.testing.assert_allclose([found.mean, found.low, found.high], 0.3, atol=1e-5)
    assert found.low == found.mean == found.high
    assert found.p == pytest.approx(2.0 ** (1 - n))
    assert found.verdict == verdict


def test_one_image_of_imagenet_is_no_rounding():
    level = {0: 90.002, 1: 91.0, 2: 92.0}
    found = statistics.differences({"a": level, "b": {0: 90.0, 1: 91.0, 2: 92.0}}, "b")["a"]
    assert found.std > 0
    assert found.low < 0 < found.high


@pytest.mark.long
def test_one_common_seed_has_no_verdict_and_does_not_count_for_holm():
    levels = {**_LEVELS, "new": {4: 95.0}, "lost": {}}
    found = statistics.differences(levels, "ce")
    assert found["new"].verdict == "one seed"
    assert found["new"].mean == pytest.approx(95.0 - 91.39)
    assert (found["new"].low, found["new"].p, found["new"].p_adjusted) == (None, None, None)
    assert (found["lost"].verdict, found["lost"].n, found["lost"].mean) == (
        "no common seed",
        0,
        None,
    )
    assert found["kd"] == statistics.differences(_LEVELS, "ce")["kd"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, "91"])
def test_what_is_no_finite_figure_is_refused_by_name(bad):
    with pytest.raises(errors.InputError, match="seed 2 of 'rrd' .*leave out"):
        statistics.differences({"ce": {2: 1.0}, "rrd": {2: bad}}, "ce")
    with pytest.raises(errors.InputError, match="leave out a seed that failed"):
        statistics.summarize({2: bad})


def test_a_seed_in_text_is_refused():
    with pytest.raises(errors.InputError, match="seed '2' of 'rrd' must be an integer"):
        statistics.differences({"ce": {2: 1.0}, "rrd": {"2": 1.0}}, "ce")


def test_without_statsmodels_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "statsmodels.stats.multitest", None)
    with pytest.raises(errors.UnavailableError, match=r"pip install 'rrd_jax\[studies\]'"):
        statistics.differences(_LEVELS, "ce")


def test_an_unknown_baseline_is_refused():
    with pytest.raises(errors.InputError, match="unknown level 'CE'.*known: ce, kd, crd, rrd"):
        statistics.differences(_LEVELS, "CE")


def _within(count, of, share):
    """Whether a binomial count is as it should be, but for one case in 1 000."""
    return stats.binomtest(int(count), of, share).pvalue > 1e-3


@pytest.mark.long
def test_without_an_effect_one_study_in_twenty_finds_one():
    rng = np.random.default_rng(0)
    studies, alone, within_study = 1000, 0, 0
    gc.freeze()  # multipletests collects garbage at every call, which takes 20 ms
    for _ in range(studies):
        figures = 91 + 0.3 * rng.standard_normal((5, 5))
        levels = {str(i): dict(enumerate(row)) for i, row in enumerate(figures)}
        found = statistics.differences(levels, "0")
        alone += found["1"].p < 0.05
        within_study += any(x.verdict != "not distinguishable" for x in found.values())
    gc.unfreeze()
    assert _within(alone, studies, 0.05)
    # Holm keeps the rate of a whole study, of four comparisons, at 5 % or below.
    assert stats.binomtest(within_study, studies, 0.05, alternative="greater").pvalue > 1e-3
    assert within_study > 0


@pytest.mark.parametrize("n", [2, 3, 5])
def test_intervals_cover_the_true_mean_as_often_as_they_say(n):
    rng = np.random.default_rng(n)
    draws, covered = 500, 0
    for row in 91 + 0.3 * rng.standard_normal((draws, n)):
        found = statistics.summarize(dict(enumerate(row)))
        covered += found.low < 91 < found.high
    assert _within(covered, draws, 0.95)


def test_the_detectable_difference_has_80_per_cent_power():
    for n, comparisons in [(2, 1), (2, 400), (3, 1), (3, 28), (5, 4), (10, 1)]:
        found = statistics.detectable_difference(0.5, n, comparisons)
        critical = stats.t.ppf(1 - 0.05 / comparisons / 2, n - 1)
        shown = 1 - stats.nct.cdf(critical, n - 1, found / 0.5 * np.sqrt(n))
        assert shown == pytest.approx(0.8, abs=1e-4)
    difference = statistics.differences(_LEVELS, "ce")["crd"]
    wanted = statistics.detectable_difference(difference.std, 5, 3)
    assert difference.detectable == pytest.approx(wanted)
