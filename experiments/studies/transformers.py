"""Distillation between a transformer and a convolutional network: Fashion-MNIST, on a CPU.

    apt-get install dataset-fashion-mnist
    python -m experiments.study --study=experiments/studies/transformers.py --jobs=2

The study has three seeds and images of 16 pixels. Words after the colon: methods, to run only
these; smoke, for a few random images.
"""

from experiments.studies import settings
from experiments.study import design

# 0.45 million parameters.
_MODEL = "rrd_jax.networks.vit:VisionTransformer"
_OPTIONS = {"patch": 4, "width": 96, "depth": 6, "heads": 3, "mlp": 2.0, "pool": "mean"}
_FIELDS = {
    "data.image_size": 16,
    "data.pad": 1,
    "data.train_split": "train[:1000]",
    "data.test_split": "test[:2000]",
    "teacher.train_split": "train[:12000]",
    "teacher.epochs": 40,
    "train.epochs": 40,
    **settings.ADAMW,
}
_ABOUT = (
    "The teacher is trained for 40 epochs on 12 000 images of Fashion-MNIST, scaled to 16 pixels;"
    " the student is trained for 40 epochs on the first 1 000 of these images. One of the 2 000"
    " test images is 0.05 points. The optimizer is AdamW. Results are not comparable with published"
    " results."
)


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    grids = tuple(
        design.Grid(
            name=name,
            question=question,
            config="configs/fashion_mnist.py",
            argument=",".join(filter(None, (pair, options.smoke))),
            fields={
                **({} if options.smoke else _FIELDS),
                f"{transformer}.options": _OPTIONS | ({"depth": 1} if options.smoke else {}),
            },
            factors=(design.methods(*(options.named or settings.METHODS)),),
            seeds=options.seeds(3),
            baseline="ce",
            measures=("predictions", "alignment"),
        )
        for name, question, pair, transformer in (
            (
                "transformer_teaches",
                "Which method is best for a convolutional student of a small transformer?",
                f"{_MODEL}-resnet8",
                "teacher",
            ),
            (
                "transformer_learns",
                "Which method is best for a small transformer with a convolutional teacher?",
                f"resnet20-{_MODEL}",
                "student",
            ),
        )
    )
    return design.Study(
        options.name("transformers"), "Transformers and convolutional networks", grids, about=_ABOUT
    )
