"""What a student's features are worth on other images: a linear classifier on the frozen student.

    python -m experiments.study --study=experiments/studies/transfer.py --jobs=2
    python -m experiments.study --study=experiments/studies/transfer.py:cifar100

On a CPU, digits and Fashion-MNIST at 8 pixels, each with the students of the other. Behind the
colon, cifar100 is the paper's table: wrn_40_2 to wrn_16_2 on CIFAR-100, then STL-10 and Tiny
ImageNet; methods select these alone; smoke is the same on a few random images.
"""

from collections.abc import Mapping
from typing import Any

from experiments.studies import published, settings
from experiments.study import design

_PAPER = ("ce", "kd", "crd", "crd+kd", "dcd+kd", "rrd", "rrd+kd")
# Batch norms keep the statistics of the images that the student was trained on.
_PROBE = {"student.head": "new", "student.freeze": "backbone"}
_SMALL_STEPS = {"train.epochs": 20}
# Images of 8 pixels, as many as a CPU sees in minutes.
_IMAGES = {
    "digits": {},
    "fashion_mnist": {
        "data.image_size": 8,
        "data.pad": 1,
        "data.flip": False,
        "data.train_split": "train[:2000]",
        "data.test_split": "test[:2000]",
    },
}
_CONFIGS = {
    "digits": "configs/digits.py",
    "fashion_mnist": "configs/fashion_mnist.py",
}
_STUDENTS = {
    "digits": {},
    "fashion_mnist": {
        "teacher.train_split": "train[:10000]",
        "teacher.epochs": 10,
        **_SMALL_STEPS,
    },
}


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    named = tuple(name for name in options.named if name != "cifar100")
    if "cifar100" in options.named:
        grids = _paper(options, design.methods(*(named or _PAPER)))
    else:
        methods = design.methods(*(named or settings.METHODS))
        grids = (
            *_small(options, methods, "digits", "fashion_mnist"),
            *_small(options, methods, "fashion_mnist", "digits"),
        )
    name = options.name("transfer_cifar100" if "cifar100" in options.named else "transfer")
    return design.Study(
        name,
        "Features on other images",
        grids,
        about="A new linear classifier is trained on the frozen student, whose batch norms keep"
        " their statistics. Top-1 is that of the classifier, on the other set's test images.",
    )


def _paper(options: settings.Options, methods: design.Factor) -> tuple[design.Grid, ...]:
    students = design.Grid(
        name="students",
        question="How good are the students on CIFAR-100?",
        config="configs/cifar100.py",
        argument=",".join(filter(None, [options.smoke, "wrn_40_2-wrn_16_2"])),
        factors=(methods,),
        seeds=options.seeds(3),
        baseline="ce",
        published={
            (method,): figure
            for (pair, method), figure in published.CIFAR100.items()
            if pair == "wrn_40_2-wrn_16_2"
        },
    )
    sets = design.Factor(
        "images",
        tuple(
            design.Level(name, config=f"configs/{name}.py", fields={"data.image_size": 32})
            for name in ("stl10", "tiny_imagenet")
        ),
    )
    probe = design.Grid(
        name="transfer",
        question="Whose features are worth most on other images?",
        factors=(sets,),
        argument=options.smoke,
        fields=_PROBE
        | ({} if options.smoke else {"train.epochs": 120, "optimizer.learning_rate": 0.05}),
        seeds=students.seeds,
        baseline="ce",
        published=published.TRANSFER,
        follows="students",
    )
    return students, probe


def _small(
    options: settings.Options, methods: design.Factor, here: str, there: str
) -> tuple[design.Grid, ...]:
    """Returns the grids of the students on one set, and of their classifiers on another."""
    fields = {**_IMAGES[here], **_STUDENTS[here]}
    students = design.Grid(
        name=f"{here}_students",
        question=f"How good are the students on {here}?",
        config=_CONFIGS[here],
        argument=",".join(filter(None, [options.smoke, "resnet8x4-resnet8"])),
        factors=(methods,),
        fields=_kept(options, fields),
        seeds=options.seeds(3),
        baseline="ce",
    )
    level = design.Level(there, config=_CONFIGS[there], fields=_kept(options, _IMAGES[there]))
    probe = design.Grid(
        name=f"{here}_transfer",
        question=f"Whose features of {here} are worth most on other images?",
        factors=(design.Factor("images", (level,)),),
        argument=options.smoke,
        fields=_PROBE | _kept(options, _SMALL_STEPS),
        seeds=students.seeds,
        baseline="ce",
        follows=students.name,
    )
    return students, probe


def _kept(options: settings.Options, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a small form has too: it has its own number of images and of epochs."""
    of_size = ("data.train_split", "data.test_split", "train.epochs")
    return {
        name: value
        for name, value in fields.items()
        if not (options.smoke and (name in of_size or name.startswith("teacher.")))
    }
