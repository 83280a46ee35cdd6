"""Prints the objectives as a table: python -m rrd_jax.objectives.

Sizes are those of resnet32x4 to resnet8x4 on CIFAR-100, in batches of 64, with the options of
configs/methods.py; weights are that file's too.
"""

from typing import Any

import jax

from rrd_jax import cli, networks, objectives, optim, report, state
from rrd_jax.config import methods

_TEACHER, _STUDENT, _CLASSES, _IMAGE = "resnet32x4", "resnet8x4", 100, (32, 32, 3)
_TRAINER = {"examples": 50_000, "batch_size": 64}  # options that the trainer fills in

# Name: what is compared, where it was published.
NOTES = {
    "ce": ("logits with the label", "-"),
    "kd": ("softened probabilities, by KL", "arXiv 1503.02531"),
    "wsld": ("the same, more where the student is behind; contains ce", "arXiv 2102.00650"),
    "dkd": ("the label's probability; how the rest is shared", "arXiv 2203.08679"),
    "dist": ("probabilities over classes and over images, by correlation", "arXiv 2205.10536"),
    "r2kd": ("probabilities by correlation, logits by rank", "arXiv 2311.13934"),
    "cmkd": ("logits by correlation or by rank, as hard as they are", "arXiv 2410.06561"),
    "sp": ("similarities of images, of the last maps", "arXiv 1907.09682"),
    "rkd": ("distances and angles between embeddings", "arXiv 1904.05068"),
    "pkt": ("similarities of embeddings as probabilities", "arXiv 1803.10837"),
    "cc": ("projected embeddings of neighbours, by their errors", "arXiv 1904.01802"),
    "ckd": ("differences between embeddings", "arXiv 2311.02253"),
    "itrd": ("dimensions of embeddings; similarities of images", "arXiv 2112.00459"),
    "ega": ("correlations of embeddings, across and within networks", "arXiv 2211.13264"),
    "dcd": ("embeddings in the batch, by contrast and consistency", "arXiv 2407.11802"),
    "crd": ("embeddings, by contrast with a memory", "arXiv 1910.10699"),
    "rrd": ("relations of embeddings to a memory", "arXiv 2407.12073"),
    "fitnet": ("one adapted map, value by value", "arXiv 1412.6550"),
    "at": ("maps, by where they are strong", "arXiv 1612.03928"),
    "nst": ("maps, by the distribution of their channels", "arXiv 1707.01219"),
    "vid": ("maps, by the likelihood of the teacher's", "arXiv 1904.05835"),
    "kdsvd": ("singular vectors of consecutive maps; equal channels", "arXiv 1807.06819"),
    "ssim": ("adapted maps, by local structure", "arXiv 2211.13133"),
    "semckd": ("every map with every map, by attention", "arXiv 2012.03236"),
    "reviewkd": ("maps fused from the last to the first, in pyramids", "arXiv 2104.09044"),
    "srrl": ("embedding, and what the teacher's classifier says of it", "openreview ZzwDy_wiWv"),
    "simkd": ("last map; the teacher's classifier takes over", "arXiv 2203.14001"),
    "ab": ("signs of maps before their ReLU", "arXiv 1811.03233"),
    "ft": ("factors of the last map, by where they are strong", "arXiv 1802.04977"),
    "fsp": ("products of consecutive maps; equal channels", "CVPR 2017"),
}


def table() -> str:
    """Every objective; `frozen` are parameters that distillation keeps as they are."""
    header = (
        "name",
        "compares",
        "trained",
        "frozen",
        "memory",
        "stage before",
        "published",
        "method of that name",
    )
    terms = {name: _create(name) for name in objectives.OBJECTIVES}
    sizes = _abstract(terms)
    rows = []
    for name, objective in terms.items():
        compares, reference = NOTES[name]
        rows.append(
            (
                name,
                compares,
                f"{networks.count_parameters(sizes.params['objectives'][name]):,}",
                f"{networks.count_parameters(sizes.frozen[name]):,}",
                _memory(sizes.memory[name]),
                _stage(objective.stage),
                reference,
                _recipe(name),
            )
        )
    return report.table(header, rows)


def text() -> str:
    """The table, and how its names become methods."""
    combined = "; ".join(f"{name} is {_recipe(name)}" for name in methods.METHODS if "+" in name)
    return (
        f"{table()}\n\nSizes: {_TEACHER} to {_STUDENT}, CIFAR-100, batches of 64. Names joined by +"
        f" are a method too: {combined}."
    )


def _create(name: str) -> objectives.Objective:
    options = dict(methods.method(name)[name])
    del options["weight"], options["warmup"]
    options |= {key: x for key, x in _TRAINER.items() if objectives.takes(name, key)}
    return objectives.create(name, **options)


def _abstract(terms: dict[str, objectives.Objective]) -> state.TrainState:
    teacher, student = (networks.create(name, _CLASSES) for name in (_TEACHER, _STUDENT))

    def create(key):
        variables = networks.init(teacher, key, _IMAGE)
        optimizer = optim.sgd(lambda step: 0.0)
        return state.create(key, student, terms, optimizer, _IMAGE, teacher, variables)

    return jax.eval_shape(create, jax.random.key(0))


def _memory(memory: Any) -> str:
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(memory))
    return f"{size / 1e6:.3g} MB" if size else "-"


def _stage(stage: objectives.Stage | None) -> str:
    if stage is None:
        return "-"
    return f"{stage.epochs} epochs of {'the student' if stage.student else 'its own layers'}"


def _recipe(name: str) -> str:
    weights = " + ".join(f"{w:g} {other}" for other, w in methods.METHODS[name].items() if w)
    return weights + " (weight unverified)" * (name in methods.UNVERIFIED)


if __name__ == "__main__":
    cli.guard(lambda: print(text()))
