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
        assert difference.comparisons == 3
    assert {name: difference.verdict for name, difference in found.items()} == {
        "kd": "better",
        "crd": "not distinguishable",
        "rrd": "better",
    }


def test_the_bootstrap_interval_is_scipys_and_the_same_at_every_call():
    found, again = (statistics.differences(_LEVELS, "ce")["kd"] for _ in range(2))
    paired = (_array("kd") - _array("ce"),)
    wanted = stats.bootstrap(paired, np.mean, rng=np.random.default_rng(0)).confidence_interval
    assert (found.boot_low, found.boot_high) == (wanted.low, wanted.high)
    assert found == again
    # Narrower than the t interval: five seeds are too few for it, as its docstring says.
    assert found.low < found.boot_low < found.mean < found.boot_high < found.high


def test_equal_figures_are_not_distinguishable_with_p_1():
    same = dict.fromkeys(range(5), 91.2)
    found = statistics.differences({"a": same, "b": dict(same)}, "b")["a"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert (found.boot_low, found.boot_high) == (0, 0)
    assert (found.p, found.p_adjusted, found.verdict) == (1, 1, "not distinguishable")
    assert found.detectable is None


@pytest.mark.parametrize(("n", "verdict"), [(2, "not distinguishable"), (6, "better")])
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_the_same_difference_on_every_seed_is_judged_by_the_sign_test(n, verdict, kind):
    level = {seed: float(kind(90 + seed + 0.3)) for seed in range(n)}
    baseline = {seed: float(kind(90 + seed)) for seed in range(n)}
    found = statistics.differences({"a": level, "b": baseline}, "b")["a"]
    np.testing.assert_allclose([found.mean, found.low, found.high], 0.3, atol=1e-5)
    assert found.low == found.boot_low == found.mean == found.boot_high == found.high
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
    found = statistics.differences(levels, "ce", resamples=0)
    assert found["new"].verdict == "one seed"
    assert found["new"].mean == pytest.approx(95.0 - 91.39)
    assert (found["new"].low, found["new"].p, found["new"].p_adjusted) == (None, None, None)
    assert (found["lost"].verdict, found["lost"].n, found["lost"].mean) == (
        "no common seed",
        0,
        None,
    )
    assert found["kd"] == statistics.differences(_LEVELS, "ce", resamples=0)["kd"]


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
        statistics.differences(_LEVELS, "ce", resamples=0)


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
        found = statistics.differences(levels, "0", resamples=0)
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


def test_the_bootstrap_interval_covers_too_little_of_five_seeds_as_its_docstring_says():
    rng = np.random.default_rng(0)
    draws, covered = 400, 0
    for row in rng.standard_normal((draws, 5)):
        levels = {"a": dict(enumerate(90 + row)), "b": dict.fromkeys(range(5), 90.0)}
        found = statistics.differences(levels, "b", resamples=499)["a"]
        covered += found.boot_low < 0 < found.boot_high
    assert _within(covered, draws, 0.85)


def test_the_detectable_difference_has_80_per_cent_power():
    for n, comparisons in [(2, 1), (2, 400), (3, 1), (3, 28), (5, 4), (10, 1)]:
        found = statistics.detectable_difference(0.5, n, comparisons)
        critical = stats.t.ppf(1 - 0.05 / comparisons / 2, n - 1)
        shown = 1 - stats.nct.cdf(critical, n - 1, found / 0.5 * np.sqrt(n))
        assert shown == pytest.approx(0.8, abs=1e-4)
    difference = statistics.differences(_LEVELS, "ce", resamples=0)["crd"]
    wanted = statistics.detectable_difference(difference.std, 5, 3)
    assert difference.detectable == pytest.approx(wanted)


def test_simulated_studies_find_the_detectable_difference_in_four_of_five_cases():
    effect = statistics.detectable_difference(1.0, 5)
    draws = effect + np.random.default_rng(0).standard_normal((2000, 5))
    shown = (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).sum()
    assert _within(shown, 2000, 0.8)


def test_the_distance_to_a_published_value_is_in_standard_errors_of_ours():
    ours = statistics.summarize({0: 74.0, 1: 75.0, 2: 76.0})
    assert statistics.standard_errors(ours, 74.48) == pytest.approx(0.52 * np.sqrt(3))
    for seeds in ({}, {0: 75.0}, {0: 75.0, 1: 75.0}):
        assert statistics.standard_errors(statistics.summarize(seeds), 74.48) is None


# Demsar (JMLR 7, 2006), table 6: AUC of four forms of C4.5 on 14 data sets. Voting's last figure
# is printed as 0.975, like the one before it, but was ranked below it.
_NAMES = ("C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf")
_AUC = """
    0.763 0.768 0.771 0.798   0.599 0.591 0.590 0.569   0.954 0.971 0.968 0.967
    0.628 0.661 0.654 0.657   0.882 0.888 0.886 0.898   0.936 0.931 0.916 0.931
    0.661 0.668 0.609 0.685   0.583 0.583 0.563 0.625   0.775 0.838 0.866 0.875
    1.000 1.000 1.000 1.000   0.940 0.962 0.965 0.962   0.619 0.666 0.614 0.669
    0.972 0.981 0.975 0.9749  0.957 0.978 0.946 0.970
"""


def _blocks(table, names):
    return {str(i): dict(zip(names, row, strict=True)) for i, row in enumerate(table.tolist())}


def test_ranks_are_those_of_the_paper_that_brought_them_here():
    table = np.array(_AUC.split(), float).reshape(14, 4)
    found = statistics.ranks(_blocks(table, _NAMES))
    published = {"C4.5+m+cf": 1.964, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5": 3.143}
    assert list(found.mean_ranks) == list(published)
    for name, rank in published.items():
        assert found.mean_ranks[name] == pytest.approx(rank, abs=5e-4)
    # The paper's 9.28 is not corrected for ties, which SciPy does.
    means = np.array(list(found.mean_ranks.values()))
    assert 12 * 14 / (4 * 5) * ((means**2).sum() - 4 * 25 / 4) == pytest.approx(9.28, abs=5e-3)
    wanted = stats.friedmanchisquare(*table.T)
    assert (found.statistic, found.p) == (wanted.statistic, wanted.pvalue)
    assert found.p < 0.05
    assert found.critical_difference == pytest.approx(1.25, abs=5e-3)
    assert statistics.critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=5e-3)
    assert found.groups == (tuple(published),)  # 3.143 - 1.964 is below 1.25


@pytest.mark.parametrize(
    ("levels", "alpha", "q"),
    [(2, 0.05, 1.960), (5, 0.05, 2.728), (10, 0.05, 3.164), (3, 0.10, 2.052), (10, 0.10, 2.920)],
)
def test_critical_values_are_those_of_the_papers_table_5(levels, alpha, q):
    found = statistics.critical_difference(levels, 7, alpha)
    assert found == pytest.approx(q * np.sqrt(levels * (levels + 1) / 42), abs=1e-3)


def test_groups_are_the_pairs_that_scikit_posthocs_does_not_tell_apart():
    rows = "71 74 73 76 79 69 72 73 75 74 70 75 74 74 78 66 70 69 72 75"
    rows += " 72 73 76 77 78 68 70 71 74 76 70 73 72 75 77 64 68 69 69 73"
    table = np.array(rows.split(), float).reshape(8, 5)
    # scikit_posthocs.posthoc_nemenyi_friedman of 0.17.1, above 0.05: ab ac bc bd cd de.
    found = statistics.ranks(_blocks(table, "abcde"))
    assert found.groups == (("e", "d"), ("d", "b", "c"), ("b", "c", "a"))
    assert list(found.mean_ranks.values()) == [1.125, 2.125, 3.375, 3.375, 5.0]


def test_ranks_without_a_difference_are_one_group():
    found = statistics.ranks({str(i): dict.fromkeys("abc", 90.0) for i in range(4)})
    assert (found.statistic, found.p) == (0, 1)
    assert found.mean_ranks == dict.fromkeys("abc", 2.0)
    assert found.groups == (("a", "b", "c"),)
