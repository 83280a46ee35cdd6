"""Dense features without labels: objectives over images, over patches, and over both.

    python -m experiments.study --study=experiments/studies/dense.py

The students of `configs/dense.py:drawings` share one teacher. The study compares their patches: the
mean IoU of a linear probe on frozen patches, and the neighbors of patches that are shared with the
teacher. Words after the colon: names of objectives, to run only these, such as rrd_both; smoke, for
a few drawings and one epoch.
"""

from experiments.studies import settings
from experiments.study import design

# The temperatures of the paper, and those of the config, which the preset "lightly" has as well.
_TEMPERATURES = {"temperature_student": 0.04, "temperature_teacher": 0.1}
_EQUAL = {"temperature_student": 0.07, "temperature_teacher": 0.07}


def _rrd(name: str, **options) -> design.Level:
    options = _TEMPERATURES | options
    fields = {f"objectives.rrd.{option}": value for option, value in options.items()}
    return design.Level(name, argument="rrd", fields=fields)


_METHODS = {
    "embed": design.Level("embed, images", argument="embed"),
    "embed_patches": design.Level(
        "embed, both", argument="embed", fields={"objectives.embed.over": "both"}
    ),
    "rrd": _rrd("rrd, images", over="images"),
    "rrd_within": _rrd("rrd, within images", over="patches", weight_memory=0.0),
    "rrd_memory": _rrd("rrd, memory of patches", over="patches", weight_within=0.0),
    "rrd_both": _rrd("rrd, both", over="both"),
    "rrd_within_equal": _rrd(
        "rrd, within images, 0.07", over="patches", weight_memory=0.0, **_EQUAL
    ),
    "rrd_both_equal": _rrd("rrd, both, 0.07", over="both", **_EQUAL),
}
# Sizes for a CPU: a run takes three minutes.
_FIELDS = {
    "data.image_size": 32,
    "data.train_split": "train[:1000]",
    "teacher.train_split": "train",
    "train.epochs": 32,
    "eval.every": 32,
}
_ABOUT = (
    "Generated drawings with exact masks at 32 pixels: the teacher resnet20 is trained on 2 000"
    " drawings with labels, the students resnet8 on 1 000 of them without labels, for 32 epochs."
    " The probe is fitted to the masks of 250 training drawings, and measured on 250 test drawings."
)


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    methods = settings.select("objective", options.named, _METHODS) or tuple(_METHODS.values())
    grid = design.Grid(
        name="students",
        question="Which objective gives the patches with the highest mean IoU of a linear probe?",
        config="configs/dense.py",
        argument=options.smoke or "drawings",
        factors=(design.Factor("method", methods),),
        seeds=options.seeds(5),
        fields={} if options.smoke else _FIELDS,
        metric="proof/miou",
        best="proof/patch_neighbours_10",
        baseline=(methods[0] if options.named else _METHODS["rrd"]).name,
        measures=(),
    )
    return design.Study(options.name("dense"), "Dense features without labels", (grid,), _ABOUT)
