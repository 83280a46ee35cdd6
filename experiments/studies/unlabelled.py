"""What a student without labels is worth where few labels come later.

    python -m experiments.study --study=experiments/studies/unlabelled.py
    python -m experiments.study --study=experiments/studies/unlabelled.py:fashion_mnist

On a CPU: students by several objectives, none of which sees a label; each then fine-tuned with 1,
10 and 100 labels of each class, beside the same network from random weights. Behind the colon:
fashion_mnist in place of digits, at 14 pixels; objectives, for these alone, such as embed or seed;
smoke for the same on a few random images.
"""

from experiments.studies import settings
from experiments.study import design

_PAIR = "resnet8x4-resnet8"
# Epochs and batch by labels of a class: few labels are few steps an epoch.
_LABELS = {1: (40, 10), 10: (30, 25), 100: (15, 50)}
_PRESETS = ("sharp_student", "sharp_teacher", "seed", "compress")
_METHODS = {
    **{name: design.Level(name, argument=name) for name in ("embed", "crd")},
    # A row for each image, which is not among its own negatives.
    "bank": design.Level("crd, bank", argument="crd", fields={"objectives.crd.memory": "bank"}),
    **{
        name: design.Level(f"rrd, {name}", argument="rrd", fields={"objectives.rrd.preset": name})
        for name in _PRESETS
    },
}
_IMAGES = {
    "digits": {"data.train_split": "train"},
    "fashion_mnist": {
        "data.train_split": "train[:5000]",
        "data.test_split": "test[:2000]",
        "data.image_size": 14,
        "data.pad": 1,
    },
}
_TEACHERS = {
    "digits": {"teacher.train_split": "train", "teacher.epochs": 15},
    # Images that no student sees.
    "fashion_mnist": {"teacher.train_split": "train[5000:15000]", "teacher.epochs": 8},
}
_EPOCHS = {"digits": 40, "fashion_mnist": 20}
_ABOUT = {
    "digits": "scikit-learn's digits: the teacher, resnet8x4, has learnt the 1 000 training images"
    " with their labels; students, resnet8, see these images without them. Of the 797 test images,"
    " one is 0.13 points.",
    "fashion_mnist": "Fashion-MNIST at 14 pixels: the teacher, resnet8x4, has learnt 10 000 images"
    " with their labels; students, resnet8, see 5 000 others without labels. Of the 2 000 test"
    " images, one is 0.05 points.",
}


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    place = "fashion_mnist" if "fashion_mnist" in options.named else "digits"
    named = [name for name in options.named if name != "fashion_mnist"]
    methods = settings.pick("objective", named, _METHODS) or tuple(_METHODS.values())
    images = {} if options.smoke else _IMAGES[place]
    teacher = {} if options.smoke else _TEACHERS[place]
    common = {"config": f"configs/{place}.py", "seeds": options.seeds(3), "measures": ()}
    students = design.Grid(
        name="students",
        question="Whose neighbours are most like the teacher's, without labels?",
        argument=",".join(filter(None, [options.smoke, _PAIR])),
        factors=(design.Factor("method", methods),),
        fields={
            "data.use_labels": False,
            "teacher.use_labels": True,
            "eval.proof": True,
            "eval.every": 1 if options.smoke else _EPOCHS[place],
            **images,
            **teacher,
            **({} if options.smoke else {"train.epochs": _EPOCHS[place]}),
        },
        metric="proof/neighbours_20",
        baseline=methods[0].name,
        **common,
    )
    few = {"seeded": ("seed", "data.noise_seed"), "factors": (_labels(bool(options.smoke)),)}
    scratch = design.Grid(
        name="from_scratch",
        question="What do few labels make of random weights?",
        argument=",".join(filter(None, [options.smoke, _PAIR, "ce"])),
        fields={**images, "teacher.model": ""},
        compared="labels",
        **common,
        **few,
    )
    tuned = design.Grid(
        name="fine_tuned",
        question="What do they make of a student that has learnt without labels?",
        argument=",".join(filter(None, [options.smoke, "ce"])),
        fields={**images, "student.backbone_rate": 0.1},
        baseline=methods[0].name,
        follows="students",
        **common,
        **few,
    )
    name = options.name(f"unlabelled_{place}")
    title = "Students without labels"
    return design.Study(name, title, (students, scratch, tuned), about=_ABOUT[place])


def _labels(smoke: bool) -> design.Factor:
    """Labels of each class; random images that stand in for the data are all used."""
    levels = []
    for count, (epochs, batch) in _LABELS.items():
        steps = {} if smoke else {"train.epochs": epochs, "train.batch_size": batch}
        fields = {"data.per_class": count, **steps}
        levels.append(design.Level(str(count), fields=fields, value=float(count)))
    return design.Factor("labels", tuple(levels), label="labels of each class", log=True)
