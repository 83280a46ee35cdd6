"""The paper's benchmark: 13 pairs of networks on CIFAR-100, and two on ImageNet.

    python -m experiments.study --study=experiments/studies/benchmark.py --launch=slurm --gpus=1
    python -m experiments.study --study=experiments/studies/benchmark.py:vgg13-vgg8,ce,rrd \
      --set='teacher.checkpoint=teachers/{teacher}.pth'

Words after the colon: pairs and methods, to run only these; imagenet, for the ImageNet pairs;
smoke, for a few random images. Tables contain published values next to the results. Each teacher is
trained once for all its students, unless teacher.checkpoint is set.
"""

from experiments.studies import published, settings
from experiments.study import design

METHODS = ("ce", "kd", "crd", "rrd", "rrd+kd", "dcd+kd")
IMAGENET = {
    "resnet34-resnet18": "configs/imagenet_r34_r18.py",
    "resnet50-mobilenetv1": "configs/imagenet_r50_mobilenetv1.py",
}


def get_study(argument: str = "") -> design.Study:
    """Returns the study; the module's docstring describes the argument."""
    options = settings.read(argument)
    named = [name for name in options.named if name != "imagenet"]
    all_pairs = (*published.PAIRS, *IMAGENET)
    pairs = tuple(name for name in named if name in all_pairs or "-" in name)
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
        "The recipes of arXiv 2407.12073 and 1910.10699. Results are from the last epoch; papers"
        " often report the best epoch, without the spread over runs."
    )
    name = options.name("benchmark_imagenet" if imagenet else "benchmark")
    return design.Study(name, "The benchmark", (grid,), about=about)
