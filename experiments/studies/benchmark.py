"""The paper's benchmark: 13 pairs of networks on CIFAR-100, and two on ImageNet.

    python -m experiments.study --study=experiments/studies/benchmark.py --launch=slurm --gpus=1
    python -m experiments.study --study=experiments/studies/benchmark.py:vgg13-vgg8,ce,rrd \
      --set='teacher.checkpoint=teachers/{teacher}.pth'

Behind the colon: pairs and methods, for these alone; imagenet for the ImageNet pairs instead;
smoke for all of it on a few random images. Published figures stand beside ours. Teachers are
trained once for all their students, unless teacher.checkpoint names them.
"""

from experiments.studies import published, settings
from experiments.study import design

METHODS = ("ce", "kd", "crd", "rrd", "rrd+kd", "dcd+kd")
IMAGENET = {
    "resnet34-resnet18": "configs/imagenet_r34_r18.py",
    "resnet50-mobilenetv1": "configs/imagenet_r50_mobilenetv1.py",
}


def get_study(argument: str = "") -> design.Study:
    """See the module's docstring."""
    options = settings.read(argument)
    named = [name for name in options.named if name != "imagenet"]
    known = (*published.PAIRS, *IMAGENET)
    pairs = tuple(name for name in named if name in known or "-" in name)
    methods = tuple(name for name in named if name not in pairs) or METHODS
    imagenet = "imagenet" in options.named or (pairs and all(pair in IMAGENET for pair in pairs))
    if imagenet:
        levels = tuple(
            design.Level(pair, argument=pair, config=IMAGENET[pair]) for pair in (pairs or IMAGENET)
        )
        pair, config, figures = design.Factor("pair", levels), "", published.IMAGENET
    else:
        pair = design.pairs(*(pairs or published.PAIRS))
        config, figures = "configs/cifar100.py", published.CIFAR100
    grid = design.Grid(
        name="imagenet" if imagenet else "cifar100",
        question="Which method makes the best student on "
        + ("ImageNet?" if imagenet else "CIFAR-100, over pairs of networks?"),
        config=config,
        argument=options.smoke,
        factors=(pair, design.methods(*methods)),
        seeds=options.seeds(3 if imagenet else 5),
        baseline="ce",
        published=figures,
    )
    about = (
        "The recipes of arXiv 2407.12073 and 1910.10699. Figures are of the last epoch; papers"
        " often print the best one, and do not say how far their own runs lie apart."
    )
    name = options.name("benchmark_imagenet" if imagenet else "benchmark")
    return design.Study(name, "The benchmark", (grid,), about=about)
