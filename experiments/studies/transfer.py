"""Transfer of a student's features: a linear classifier on the frozen student, on another data set.

    python -m experiments.study --study=experiments/studies/transfer.py --jobs=2
    python -m experiments.study --study=experiments/studies/transfer.py:cifar100

The default is digits and Fashion-MNIST at 8 pixels, for a CPU: students of each data set are
evaluated on the other. Words after the colon: cifar100, for the table of the paper (wrn_40_2 to
wrn_16_2 on CIFAR-100, then STL-10 and Tiny ImageNet); methods, to run only these; smoke, for a few
random images.
"""

from collections.abc import Mapping
from typing import Any

from experiments.studies import published, settings
from experiments.study import design

_PAPER = ("ce", "kd", "crd", "crd+kd", "dcd+kd", "rrd", "rrd+kd")
# The batch statistics remain those of the student's training images.
_PROBE = {"student.head": "new", "student.freeze": "backbone"}
_SMALL_STEPS = {"train.epochs": 20}
# Images of 8 pixels, in a number that a CPU can train on in minutes.
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
    """Returns the study; the module's docstring describes the argument."""
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
        "Transfer of features",
        grids,
        about="A new linear classifier is trained on the frozen student; batch statistics are not"
        " updated. Top-1 is the accuracy of the classifier on the other data set's test images.",
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
        question="Which features transfer best to other images?",
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
    options: settings.Options, methods: design.Factor, source: str, target: str
) -> tuple[design.Grid, ...]:
    """Returns the grids of students on one data set and of their classifiers on another."""
    fields = {**_IMAGES[source], **_STUDENTS[source]}
    students = design.Grid(
        name=f"{source}_students",
        question=f"How good are the students on {source}?",
        config=_CONFIGS[source],
        argument=",".join(filter(None, [options.smoke, "resnet8x4-resnet8"])),
        factors=(methods,),
        fields=_form_fields(options, fields),
        seeds=options.seeds(3),
        baseline="ce",
    )
    level = design.Level(
        target, config=_CONFIGS[target], fields=_form_fields(options, _IMAGES[target])
    )
    probe = design.Grid(
        name=f"{source}_transfer",
        question=f"Which features from {source} transfer best to other images?",
        factors=(design.Factor("images", (level,)),),
        argument=options.smoke,
        fields=_PROBE | _form_fields(options, _SMALL_STEPS),
        seeds=students.seeds,
        baseline="ce",
        follows=students.name,
    )
    return students, probe


def _form_fields(options: settings.Options, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields that apply; the smoke form sets the number of images and epochs."""
    size_fields = ("data.train_split", "data.test_split", "train.epochs")
    return {
        name: value
        for name, value in fields.items()
        if not (options.smoke and (name in size_fields or name.startswith("teacher.")))
    }
