"""How far students come to see as their teacher does.

    python -m experiments.study --study=experiments/studies/alignment.py --jobs=2

Correlations between the logits of classes, centred kernel alignment of embeddings, the neighbours
that both find, and maps of the embeddings, on the test images. On digits, on a CPU; those runs are
of the study of digits too. Behind the colon: methods, for these alone; fashion_mnist or cifar100
for that in place of digits; smoke for the same on a few random images.
"""

from experiments.studies import settings
from experiments.study import design

_METHODS = ("ce", "kd", "crd", "rrd", "rrd+kd")


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    place = settings.place(options)
    grid = design.Grid(
        name="alignment",
        question="Which method's student sees most as its teacher does?",
        config=place.config,
        argument=options.smoke,
        factors=(design.methods(*(place.methods or _METHODS)),),
        fields=place.fields,
        seeds=options.seeds(3),
        baseline="ce",
        metric="test/agreement",
        measures=("predictions", "alignment", "tsne"),
    )
    return design.Study(
        options.name(f"alignment_{place.name}"),
        "Students beside their teacher",
        (grid,),
        about=place.about,
    )
