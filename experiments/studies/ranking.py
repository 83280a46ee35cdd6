"""A ranking of methods on Fashion-MNIST, with published and with tuned weights: ten paired seeds.

    apt-get install dataset-fashion-mnist
    python -m experiments.study --study=experiments/studies/ranking.py --jobs=2

The teacher resnet20 is trained on all 60 000 images, the student resnet8 on 5 000 of them; the
10 000 test images are used for the comparison only. Each method's weight is tuned by successive
halving on 10 000 validation images, with seeds that the comparison does not use. Words after the
colon: methods, to compare only these with the controls ce and kd, as in ranking.py:rrd,rrd+kd;
small, for images of 14 pixels instead of 28; published, to leave out the tuned weights; smoke, for
a few random images.
"""

import dataclasses

from experiments.studies import settings
from experiments.study import design

_CONTROLS = ("ce", "kd")
_METHODS = ("dkd", "dist", "rkd", "crd", "rld", "wttm", "wkd", "vrm", "rrd", "rrd+kd")
_EPOCHS = 20
_FIELDS = {
    "data.train_split": "train[:5000]",
    # 18 views of each image, including flips. The teacher's outputs of each view are cached.
    "data.pad": 1,
    "teacher.train_split": "train",
    "teacher.epochs": 10,
    "train.epochs": _EPOCHS,
}
# 5 000 images for training, and 10 000 others for validation.
_TUNING = {"data.train_split": "train[:15000]", "data.val_split": 10000}
_TUNING_SEEDS = (100, 101)
_WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0)
_ABOUT = (
    "The teacher resnet20 is trained on all 60 000 images of Fashion-MNIST, the student resnet8 on"
    " the first 5 000, for 20 epochs; all 10 000 test images. The seed determines initial weights"
    " and batches; teacher and images are the same for all seeds, so intervals do not include their"
    " variation."
)
_SMALL = " Images have 14 pixels instead of 28, so that the study takes hours on two CPU cores."
_TUNED = (
    " Weights are tuned for each method by successive halving (arXiv 1502.07943) over 0.1, 0.3, 1,"
    " 3 and 10 times the published weight: the best two after a quarter of the epochs, then the"
    " best after half of them, by the mean top-1 of 10 000 validation images over two other seeds."
    " All methods have the same number of trials; for ce, the weight scales the learning rate. The"
    " teacher of these runs is trained without as many images."
)


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    words = [name for name in ("small", "published") if name in options.named]
    named = tuple(name for name in options.named if name not in words)
    fields = dict(_FIELDS) | ({"data.image_size": 14} if "small" in words else {})
    methods = dict.fromkeys((*_CONTROLS, *(named or _METHODS)))
    base = design.Grid(
        name="published",
        question="Which method makes a better student than labels alone, with published weights?",
        config="configs/fashion_mnist.py",
        argument=options.smoke or "resnet20-resnet8",
        fields={} if options.smoke else fields,
        factors=(design.methods(*methods),),
        seeds=options.seeds(10),
        baseline="ce",
        measures=("calibration",),
    )
    grids = _with_kd(base)
    if "published" not in words:
        grids += _tuned(base, options)
    name = "_".join(["ranking", *words])
    about = _ABOUT + _SMALL * ("small" in words) + _TUNED * ("published" not in words)
    return design.Study(options.name(name), "Methods on Fashion-MNIST", grids, about)


def _with_kd(grid: design.Grid) -> tuple[design.Grid, ...]:
    """Returns a grid with the control ce, and a grid of the same runs with the control kd."""
    methods, *others = grid.factors
    levels = tuple(level for level in methods.levels if level.name != "ce")
    if len(levels) < 2:
        return (grid,)
    kd = dataclasses.replace(
        grid,
        name=f"{grid.name}_kd",
        question=grid.question.replace("labels alone", "kd"),
        factors=(dataclasses.replace(methods, levels=levels), *others),
        baseline="kd",
    )
    return grid, kd


def _tuned(base: design.Grid, options: settings.Options) -> tuple[design.Grid, ...]:
    """Returns two rounds of successive halving, and the grids with the selected weights."""
    (methods,) = base.factors
    weights = design.scales("weight", *(_WEIGHTS[1:4] if options.smoke else _WEIGHTS))
    epochs = 4 if options.smoke else _EPOCHS

    def round_of(name: str, share: float, selection: design.Selection | None) -> design.Grid:
        length = round(share * epochs)
        fields = {**base.fields, "train.epochs": length, **({} if options.smoke else _TUNING)}
        return dataclasses.replace(
            base,
            name=name,
            question=f"Which weights are best on validation images after {length} epochs?",
            factors=(methods, weights),
            fields=fields,
            seeds=_TUNING_SEEDS,
            metric="test/top1" if options.smoke else "val/top1",
            baseline="",
            display="curve",
            measures=(),
            selection=selection,
        )

    quarter = round_of("weights_quarter", 0.25, None)
    half = round_of("weights_half", 0.5, design.Selection(quarter.name, "weight", 2))
    tuned = dataclasses.replace(
        base,
        name="tuned",
        question=base.question.replace("published", "tuned"),
        factors=(methods, weights),
        selection=design.Selection(half.name, "weight"),
    )
    return (quarter, half, *_with_kd(tuned))
