import collections
import itertools
import pathlib

import pytest

from experiments.studies import published
from experiments.study import plan, records, work

_ROOT = pathlib.Path("experiments/studies")
_FILES = sorted(p for p in _ROOT.glob("*.py") if p.stem not in ("published", "settings"))
# Numbers of cells, runs and teachers by file and argument of a study.
_SIZES = {
    "ablation.py": (138, 123, 1),
    "ablation.py:cifar100,temperatures": (75, 75, 1),
    "benchmark.py:imagenet": (36, 36, 2),
    "benchmark.py:vgg13-vgg8,ce,rrd": (10, 10, 1),
    "dense.py": (40, 40, 1),
    "digits.py": (235, 235, 1),
    "digits.py:ce,kd": (10, 10, 1),
    "fashion_mnist.py": (235, 235, 1),
    "fashion_mnist.py:small,ce,rrd": (10, 10, 1),
    "few_images.py": (60, 60, 1),
    "imbalance.py": (36, 36, 1),
    "label_noise.py": (72, 60, 1),
    # Teachers are trained on the labels of their students: one set without wrong labels, and two
    # shares of wrong labels for each kind and seed.
    "label_noise.py:noisy_teacher": (72, 60, 13),
    # Without the runs that the weights' results select.
    "ranking.py": (350, 240, 2),
    "ranking.py:published,small,rrd": (50, 30, 1),
    "transformers.py": (24, 24, 2),
    "teachers.py": (35, 35, 2),
    "transfer.py": (48, 48, 2),
    "transfer.py:cifar100,ce,rrd": (18, 18, 1),
    "unlabelled.py": (93, 93, 1),
    "unlabelled.py:fashion_mnist,embed,seed": (33, 33, 1),
}


@pytest.fixture(autouse=True, scope="module")
def _in_the_root():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(pathlib.Path(__file__).parents[2])
        yield


@pytest.mark.parametrize("text", _SIZES)
@pytest.mark.long
def test_a_study_has_the_expected_numbers_of_cells_runs_and_teachers(text, tmp_path):
    planned = plan.make(plan.load(str(_ROOT / text)), tmp_path, platform="cpu")
    assert (len(planned.cells), len(planned.runs), len(planned.teachers())) == _SIZES[text]


def test_every_study_is_in_the_table():
    assert {text.partition(":")[0] for text in _SIZES} == {path.name for path in _FILES}


def test_the_benchmark_has_all_pairs_and_methods_of_the_published_values():
    (grid,) = plan.load(f"{_ROOT}/benchmark.py").grids
    pairs, methods = ([level.name for level in factor.levels] for factor in grid.factors)
    assert set(itertools.product(pairs, methods)) <= set(published.CIFAR100)
    figures = collections.Counter(method for _, method in published.CIFAR100)
    assert figures.pop("fsp") == 6
    assert set(figures.values()) == {13}
    assert published.CIFAR100["wrn_40_2-shufflenetv1_cifar", "rrd+kd"] == 76.31
    assert published.CIFAR100["vgg13-mobilenetv2_cifar", "at"] == 59.40


# Other tests cover the other studies, which differ in methods, pairs and noise.
_KINDS = ("transformers", "unlabelled", "dense", "teachers")


@pytest.mark.long
@pytest.mark.parametrize("path", [p for p in _FILES if p.stem in _KINDS], ids=lambda p: p.stem)
def test_the_smoke_form_of_a_study_finishes(path, tmp_path):
    # The first cell of the first grid and the last cell of the last grid are a sufficient sample.
    study = plan.load(f"{path}:smoke")
    planned = plan.make(study, tmp_path, seeds=1)
    planned.write()
    labels = [cell.label for cell in planned.cells]
    planned = planned.only([labels[0], labels[-1]])
    work.Worker(planned, "here").work()
    record = records.read(tmp_path)
    runs = [run for grid in record.grids for run in grid.runs if run.name in planned.runs]
    assert {run.state for run in runs} == {"finished"}
    assert not [run.error for run in runs if run.error]
    first = record.grids[0]
    assert all(run.rows[-1].get(first.metric) is not None for run in first.runs if run.rows)
