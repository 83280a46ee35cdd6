"""Students trained without labels, and fine-tuned with few labels.

    python -m experiments.study --study=experiments/studies/unlabelled.py
    python -m experiments.study --study=experiments/studies/unlabelled.py:fashion_mnist

Students are trained with several objectives without labels, on a CPU. Each student is then
fine-tuned with 1, 10 and 100 labels per class, and compared with the same network from random
weights. Words after the colon: fashion_mnist, instead of digits, at 14 pixels; objectives, to run
only these, such as embed or seed; smoke, for a few random images.
"""

from experiments.studies import settings
from experiments.study import design

_PAIR = "resnet8x4-resnet8"
# Epochs and batch size by labels per class: with few labels, an epoch has few steps.
_LABELS = {1: (40, 10), 10: (30, 25), 100: (15, 50)}
_PRESETS = ("sharp_student", "sharp_teacher", "seed", "compress")
_METHODS = {
    **{name: design.Level(name, argument=name) for name in ("embed", "crd")},
    # A memory with one row for each image; an image is not a negative of itself.
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
    # Images on which no student is trained.
    "fashion_mnist": {"teacher.train_split": "train[5000:15000]", "teacher.epochs": 8},
}
_EPOCHS = {"digits": 40, "fashion_mnist": 20}
_ABOUT = {
    "digits": "scikit-learn's digits: the teacher resnet8x4 is trained on the 1 000 training images"
    " with labels, the students resnet8 on the same images without labels. One of the 797 test"
    " images is 0.13 points.",
    "fashion_mnist": "Fashion-MNIST at 14 pixels: the teacher resnet8x4 is trained on 10 000 images"
    " with labels, the students resnet8 on 5 000 other images without labels. One of the 2 000 test"
    " images is 0.05 points.",
}


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    data = "fashion_mnist" if "fashion_mnist" in options.named else "digits"
    named = [name for name in options.named if name != "fashion_mnist"]
    methods = settings.select("objective", named, _METHODS) or tuple(_METHODS.values())
    images = {} if options.smoke else _IMAGES[data]
    teacher = {} if options.smoke else _TEACHERS[data]
    common = {"config": f"configs/{data}.py", "seeds": options.seeds(3), "measures": ()}
    students = design.Grid(
        name="students",
        question="Which students without labels have the neighbors most similar to the teacher's?",
        argument=",".join(filter(None, [options.smoke, _PAIR])),
        factors=(design.Factor("method", methods),),
        fields={
            "data.use_labels": False,
            "teacher.use_labels": True,
            "eval.proof": True,
            "eval.every": 1 if options.smoke else _EPOCHS[data],
            **images,
            **teacher,
            **({} if options.smoke else {"train.epochs": _EPOCHS[data]}),
        },
        metric="proof/neighbours_20",
        baseline=methods[0].name,
        **common,
    )
    label_options = {
        "seeded": ("seed", "data.noise_seed"),
        "factors": (_labels(bool(options.smoke)),),
    }
    scratch = design.Grid(
        name="from_scratch",
        question="How accurate is a network from random weights with few labels?",
        argument=",".join(filter(None, [options.smoke, _PAIR, "ce"])),
        fields={**images, "teacher.model": ""},
        compared="labels",
        **common,
        **label_options,
    )
    tuned = design.Grid(
        name="fine_tuned",
        question="How accurate is a fine-tuned student that was trained without labels?",
        argument=",".join(filter(None, [options.smoke, "ce"])),
        fields={**images, "student.backbone_rate": 0.1},
        baseline=methods[0].name,
        follows="students",
        **common,
        **label_options,
    )
    name = options.name(f"unlabelled_{data}")
    title = "Students without labels"
    return design.Study(name, title, (students, scratch, tuned), about=_ABOUT[data])


def _labels(smoke: bool) -> design.Factor:
    """Returns the factor of labels per class; the smoke form keeps its schedule."""
    levels = []
    for count, (epochs, batch) in _LABELS.items():
        steps = {} if smoke else {"train.epochs": epochs, "train.batch_size": batch}
        fields = {"data.per_class": count, **steps}
        levels.append(design.Level(str(count), fields=fields, value=float(count)))
    return design.Factor("labels", tuple(levels), label="labels per class", log=True)
