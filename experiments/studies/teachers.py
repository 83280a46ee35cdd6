"""Two transformers teach one convolutional student without labels: Fashion-MNIST, on a CPU.

    apt-get install dataset-fashion-mnist
    python -m experiments.study --study=experiments/studies/teachers.py --jobs=2

The teachers have patches of different sizes and different widths, and are trained on different
images. Words after the colon: names of cells, to run only these, such as heads or phi_s; smoke, for
a few random images.
"""

from experiments.studies import settings
from experiments.study import design

_MODEL = "rrd_jax.networks.vit:VisionTransformer"
_TEACHERS = (
    {"patch": 4, "width": 96, "depth": 4, "heads": 3, "mlp": 2.0, "pool": "mean"},
    {"patch": 8, "width": 64, "depth": 4, "heads": 2, "mlp": 2.0, "pool": "mean"},
)
# PHI-S needs more images than channels.
_SMOKE = {"width": 16, "depth": 1, "heads": 1}
_EMBED = {"distance": "unic", "head": "mlp", "head_width": 128}
_FIELDS = {
    "data.image_size": 16,
    "data.pad": 1,
    "data.train_split": "train[24000:27000]",
    "data.test_split": "test[:2000]",
    "teacher[0].train_split": "train[:12000]",
    "teacher[1].train_split": "train[12000:24000]",
    "teacher.epochs": 15,
    "train.epochs": 20,
    "eval.every": 20,
    **settings.ADAMW,
}
_ABOUT = (
    "Two small transformers are trained with labels on 12 000 images of Fashion-MNIST each, scaled"
    " to 16 pixels, one with patches of 4 pixels and 96 channels, one with patches of 8 pixels and"
    " 64 channels. Students resnet8 are trained without labels on 3 000 other images, for 20"
    " epochs, and measured on 2 000 test images."
)


def _level(name: str, argument: str = "embed", **fields) -> design.Level:
    options = {f"objectives.embed.{k}": v for k, v in _EMBED.items() if argument != "kd"}
    return design.Level(name, argument=argument, fields=options | fields)


def _alone(number: int) -> design.Level:
    """Returns the cell of one teacher; the other one is only compared with the student."""
    chosen = {f"teacher[{i}].objectives": "embed" if i == number else "sp" for i in range(2)}
    fields = chosen | {"objectives.sp.weight": 0.0}
    return _level(f"teacher {number + 1} alone", "embed+sp", **fields)


_STANDARDIZE = "objectives.embed.standardize"
_CELLS = {
    "first": _alone(0),
    "second": _alone(1),
    "averaged": _level("averaged logits, kd", "kd"),
    "heads": _level("two heads"),
    "running": _level("two heads, running statistics", **{_STANDARDIZE: "running"}),
    "phi_s": _level("two heads, PHI-S", **{_STANDARDIZE: "phi_s"}),
    "dropping": _level(
        "two heads, PHI-S, dropping", **{_STANDARDIZE: "phi_s", "train.drop_teachers": 0.5}
    ),
}


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    cells = settings.select("cell", options.named, _CELLS) or tuple(_CELLS.values())
    grid = design.Grid(
        name="students",
        question="Does a student learn more from two teachers than from one?",
        config="configs/fashion_mnist.py",
        argument=",".join(filter(None, (options.smoke, f"{_MODEL}+{_MODEL}-resnet8"))),
        factors=(design.Factor("method", cells),),
        seeds=options.seeds(5),
        fields={
            # Labels are for k-NN and probe only; averaged logits need a classifier.
            "objectives.ce.weight": 0.0,
            "eval.proof": True,
            "eval.knn": True,
            **{
                f"teacher[{i}].options": fields | (_SMOKE if options.smoke else {})
                for i, fields in enumerate(_TEACHERS)
            },
            **({} if options.smoke else _FIELDS),
        },
        metric="proof/probe",
        best="proof/neighbours_10",
        baseline=cells[0].name,
        measures=(),
    )
    return design.Study(options.name("teachers"), "Several teachers", (grid,), _ABOUT)
