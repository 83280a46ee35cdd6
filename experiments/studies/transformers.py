"""A transformer and a convolution network teach each other: Fashion-MNIST, three seeds, on a CPU.

    apt-get install dataset-fashion-mnist
    python -m experiments.study --study=experiments/studies/transformers.py --jobs=2

Images of 16 pixels. Behind the colon: methods, for these alone; smoke for the same on a few random
images.
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
    # As transformers are trained; convolution networks learn with it too.
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 2e-3,
    "optimizer.weight_decay": 0.05,
    "optimizer.decay_norm_and_bias": False,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 2.0,
    "optimizer.clip_norm": 1.0,
}
_ABOUT = (
    "The teacher has seen 12 000 images of Fashion-MNIST, scaled to 16 pixels, for 40 epochs; the"
    " student gets the first 1 000 of them for as many. Of the 2 000 test images, one is 0.05"
    " points. Both learn by AdamW. These are not Fashion-MNIST's usual figures."
)


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    grids = tuple(
        design.Grid(
            name=name,
            question=question,
            config="configs/fashion_mnist.py",
            argument=",".join(filter(None, (pair, options.smoke))),
            fields={
                **({} if options.smoke else _FIELDS),
                f"{transformer}.options": _OPTIONS,
            },
            factors=(design.methods(*(options.named or settings.METHODS)),),
            seeds=options.seeds(3),
            baseline="ce",
            measures=("predictions", "alignment"),
        )
        for name, question, pair, transformer in (
            (
                "transformer_teaches",
                "What does a convolution network learn from a small transformer?",
                f"{_MODEL}-resnet8",
                "teacher",
            ),
            (
                "transformer_learns",
                "What does a small transformer learn from a convolution network?",
                f"resnet20-{_MODEL}",
                "student",
            ),
        )
    )
    return design.Study(
        options.name("transformers"), "Transformers and convolutions", grids, about=_ABOUT
    )
