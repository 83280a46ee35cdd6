"""A transformer and a convolution network teach each other: Fashion-MNIST, three seeds, on a CPU.

    apt-get install dataset-fashion-mnist
    python -m experiments.study --study=experiments/studies/transformers.py --jobs=2

Images of 16 pixels. Behind the colon: methods, for these alone; smoke for the same on a few random
images.
"""

from experiments.studies import settings
from experiments.study import design

_FIELDS = {
    "data.image_size": 16,
    "data.pad": 2,
    "data.train_split": "train[:1000]",
    "data.test_split": "test[:2000]",
    "teacher.train_split": "train[:8000]",
    "teacher.epochs": 10,
    "train.epochs": 20,
    # As transformers are trained; convolution networks learn with it too.
    "optimizer.name": "adamw",
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.05,
    "optimizer.decay_norm_and_bias": False,
    "optimizer.schedule": "cosine",
    "optimizer.warmup_epochs": 1.0,
    "optimizer.clip_norm": 1.0,
}
_ABOUT = (
    "The teacher has seen 8 000 images of Fashion-MNIST, scaled to 16 pixels, for 10 epochs; the"
    " student gets the first 1 000 of them for 20. Of the 2 000 test images, one is 0.05 points."
    " Both learn by AdamW. These are not Fashion-MNIST's usual figures."
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
            fields={} if options.smoke else _FIELDS,
            factors=(design.methods(*(options.named or settings.METHODS)),),
            seeds=options.seeds(3),
            baseline="ce",
            measures=("predictions", "alignment"),
        )
        for name, pair, question in (
            (
                "transformer_teaches",
                "vit_nano_32-resnet8",
                "What does a convolution network learn from a small transformer?",
            ),
            (
                "transformer_learns",
                "resnet20-vit_nano_32",
                "What does a small transformer learn from a convolution network?",
            ),
        )
    )
    return design.Study(
        options.name("transformers"), "Transformers and convolutions", grids, about=_ABOUT
    )
