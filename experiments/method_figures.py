"""Draws the figures of docs/how_rrd_works.md, from a finished run of `make distill`.

    python -m experiments.method_figures --workdir=runs/digits --output=docs/images

Needs the run's teacher (runs/digits/teacher) and matplotlib (pip install 'rrd_jax[plots]').
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import rrd_jax
from rrd_jax import checkpoints, data
from rrd_jax.objectives.parts import memory, projections
from rrd_jax.terminal import cli, drawing

_TEACHER, _STUDENT, _GREY = "#c25b0f", "#1f6fb4", "#8a8a8a"
_STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "rrd_jax",
}
_QUERY = 8  # of the test images


class Relations(NamedTuple):
    """What student and teacher of a run see in one test image.

    Attributes:
      query: [H, W] the image.
      memory: [K, H, W] the images whose embeddings are in the memory.
      teacher: [K] the teacher's similarities of the query to the memory, cosines.
      student: [K] the student's.
    """

    query: np.ndarray
    memory: np.ndarray
    teacher: np.ndarray
    student: np.ndarray


def read(folder: pathlib.Path, query: int = _QUERY) -> Relations:
    """The relations of a test image to the training images, as the run's objective sees them.

    The memory is filled as training fills it: `memory.push` of the teacher's projected embeddings.
    """
    state, _ = checkpoints.load_objective(folder, "rrd")
    teacher = rrd_jax.load(folder / "teacher")
    student = rrd_jax.load(folder, head="rrd")
    splits = data.load(dataclasses.replace(student.source, train_split="train"))
    known, asked = (np.asarray(split.images) for split in (splits.train, splits.test))
    known, asked = (x.reshape(-1, *splits.image_shape) for x in (known, asked))
    project = functools.partial(projections.project, jax.tree.map(jnp.asarray, state.frozen))
    queue = memory.init_queue(jax.random.key(0), len(known), student.embed(asked[:1]).shape[-1])
    queue = memory.push(queue, project(teacher.embed(known)))
    one = asked[query : query + 1]
    return Relations(
        one[0, ..., 0],
        known[..., 0],
        np.asarray(queue.rows @ project(teacher.embed(one))[0]),
        np.asarray(queue.rows @ jnp.asarray(student.embed(one))[0]),
    )


def shares(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """[K] the softmax of similarities at a temperature."""
    return np.asarray(jax.nn.softmax(jnp.asarray(similarities) / temperature))


def effective(probabilities: np.ndarray) -> float:
    """The exponential of the entropy: among how many rows the probability is spread."""
    positive = probabilities[probabilities > 0]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def draw_temperatures(relations: Relations) -> Any:
    """The teacher's softmax over the rows that are nearest to it, at five temperatures."""
    from matplotlib import figure

    picture = figure.Figure(figsize=(7.2, 2.9), layout="constrained")
    axes = picture.add_subplot()
    order = np.argsort(-relations.teacher)
    colours = ("#4a1502", "#8f3305", "#c25b0f", "#e5924a", "#f3c69b")
    for temperature, colour in zip((0.0001, 0.02, 0.04, 0.1, 0.2), colours, strict=True):
        probabilities = shares(relations.teacher, temperature)
        spread = effective(probabilities)
        label = f"{temperature:g}: as if among {spread:,.0f} row{'s' if spread >= 1.5 else ''}"
        shown = np.maximum(probabilities[order][:200], 1e-7)
        axes.plot(np.arange(1, 201), shown, color=colour, label=label)
    axes.set(xscale="log", yscale="log", ylim=(1e-5, 1.5), xlim=(1, 200))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("rows of the memory, from the nearest on")
    axes.set_ylabel("teacher's probability")
    axes.legend(title="temperature", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return picture


def draw_relations(relations: Relations, tau_student: float, tau_teacher: float) -> Any:
    """The nearest rows with both probabilities, and all similarities of one over the other's."""
    from matplotlib import figure

    picture = figure.Figure(figsize=(7.2, 3.1), layout="constrained")
    grid = picture.add_gridspec(2, 10, height_ratios=(1, 3.2), width_ratios=(*[1] * 8, 0.6, 6))
    nearest = np.argsort(-relations.teacher)[:7]
    images = [relations.query, *relations.memory[nearest]]
    for i, image in enumerate(images):
        axes = picture.add_subplot(grid[0, i])
        axes.imshow(image, cmap="gray_r")
        axes.set_title("image" if i == 0 else f"m{i}", fontsize=8)
        axes.set(xticks=[], yticks=[])
    bars = picture.add_subplot(grid[1, 1:8])
    places = np.arange(len(nearest))
    p_teacher = shares(relations.teacher, tau_teacher)
    p_student = shares(relations.student, tau_student)
    bars.bar(places - 0.2, p_teacher[nearest], 0.4, color=_TEACHER, label="teacher")
    bars.bar(places + 0.2, p_student[nearest], 0.4, color=_STUDENT, label="student")
    bars.set(xticks=places, xticklabels=[f"m{i + 1}" for i in places], ylabel="probability")
    bars.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 0.93))
    both = picture.add_subplot(grid[:, 9])
    both.plot(relations.teacher, relations.student, ".", markersize=2.5, color=_GREY)
    ends = np.array([relations.teacher.min(), relations.teacher.max()])
    shift = np.mean(relations.student) - tau_student / tau_teacher * np.mean(relations.teacher)
    slope = tau_student / tau_teacher
    both.plot(ends, slope * ends + shift, color="black", linewidth=1)
    both.set(xlabel="teacher's similarity", ylabel="student's similarity")
    both.set_title(f"line: slope {tau_student:g} / {tau_teacher:g} = {slope:g}", fontsize=8)
    return picture


def queue_history(size: int, batch: int, steps: int) -> np.ndarray:
    """[steps + 1, size] which step wrote each row of a queue; 0 for a random first one."""
    queue = memory.init_queue(jax.random.key(0), size, 1)
    queue = queue._replace(rows=jnp.zeros_like(queue.rows))
    states = [queue.rows[:, 0]]
    for step in range(1, steps + 1):
        queue = memory.push(queue, jnp.full((batch, 1), float(step)))
        states.append(queue.rows[:, 0])
    return np.asarray(jnp.stack(states)).astype(int)


def draw_queue(size: int = 12, batch: int = 5, steps: int = 4) -> Any:
    """What a queue holds after each step, as `memory.push` leaves it."""
    from matplotlib import figure, patches

    history = queue_history(size, batch, steps)
    picture = figure.Figure(figsize=(7.2, 2.4), layout="constrained")
    axes = picture.add_subplot()
    for i, rows in enumerate(history):
        for k, step in enumerate(rows):
            new = step == i > 0
            depth = 0.0 if step == 0 else 0.25 + 0.75 * step / steps
            face = (1 - 0.24 * depth, 1 - 0.64 * depth, 1 - 0.94 * depth)
            box = patches.Rectangle((k, -i), 0.94, 0.8, facecolor=face, linewidth=1.6 if new else 0)
            box.set_edgecolor("black" if new else "none")
            axes.add_patch(box)
            axes.text(k + 0.47, 0.4 - i, "random" if step == 0 else f"step {step}", **_CENTRED)
        text = "at the start" if i == 0 else f"after step {i}"
        axes.text(-0.2, 0.4 - i, text, ha="right", va="center", fontsize=8)
    axes.set(xlim=(-2.2, size), ylim=(-steps - 0.2, 1))
    axes.axis("off")
    return picture


_CENTRED = {"ha": "center", "va": "center", "fontsize": 6.5}


def draw_flow() -> Any:
    """Where an image goes: both networks, both projections, the memory, the loss."""
    from matplotlib import figure

    picture = figure.Figure(figsize=(7.2, 2.7), layout="constrained")
    axes = picture.add_subplot()

    def box(x, y, text, colour, width=1.5):
        style = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": colour}
        axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox=style)
        return x - width / 2, x + width / 2, y

    def arrow(start, end, colour, style="-"):
        kind = {"arrowstyle": "->", "color": colour, "linestyle": style, "linewidth": 1.1}
        axes.annotate("", end, start, arrowprops={**kind, "shrinkA": 2, "shrinkB": 2})

    box(0.5, 0.0, "image", "black")
    for y, name, colour, weights, sign in (
        (1.0, "teacher", _TEACHER, "fixed", "z_t"),
        (-1.0, "student", _STUDENT, "trained", "z_s"),
    ):
        arrow((0.85, 0.12 * y), (1.75, 0.85 * y), colour)
        box(2.4, y, f"{name}\n{weights}", colour)
        arrow((2.8, y), (3.66, y), colour)
        box(4.5, y, f"linear layer, length 1\n{weights}", colour)
        arrow((5.36, y), (6.28, y), colour)
        box(7.0, y, f"softmax over\n{sign} . m_k / tau_{sign[-1]}", colour)
        arrow((7.75, 0.9 * y), (8.55, 0.18 * y), colour)
    axes.text(5.75, 1.12, "z_t", color=_TEACHER, fontsize=8, ha="center")
    axes.text(5.75, -1.32, "z_s", color=_STUDENT, fontsize=8, ha="center")
    box(7.0, 0.0, "memory\nm_1 ... m_K", "black")
    arrow((7.0, 0.32), (7.0, 0.68), _GREY)
    arrow((7.0, -0.32), (7.0, -0.68), _GREY)
    arrow((5.75, 0.98), (6.45, 0.12), _TEACHER, "--")
    axes.text(5.55, 0.45, "enters, the\noldest leaves", color=_TEACHER, fontsize=7, ha="right")
    box(9.2, 0.0, "cross-\nentropy", "black")
    axes.set(xlim=(0, 9.8), ylim=(-1.55, 1.55))
    axes.axis("off")
    return picture


def makers(relations: Relations) -> dict[str, Callable[[], Any]]:
    """What draws each figure, by the name of its file."""
    return {
        "rrd_flow": draw_flow,
        "rrd_queue": draw_queue,
        "rrd_temperatures": functools.partial(draw_temperatures, relations),
        "rrd_relations": functools.partial(draw_relations, relations, 0.04, 0.1),
    }


def define_flags() -> None:
    """Not on import: tests import several programs, whose flags have the same names."""
    flags.DEFINE_string("workdir", "runs/digits", "A finished run of make distill.")
    flags.DEFINE_string("output", "docs/images", "The folder that the figures go to.")


def main(argv: list[str]) -> None:
    """Draws all of them."""
    del argv
    cli.guard(_run, stopped="stopped")


def _run() -> None:
    import matplotlib

    drawing.check("this command")
    output = pathlib.Path(flags.FLAGS.output)
    output.mkdir(parents=True, exist_ok=True)
    relations = read(pathlib.Path(flags.FLAGS.workdir))
    # The same figures are the same files: matplotlib writes the date that this says.
    os.environ["SOURCE_DATE_EPOCH"] = "0"
    with matplotlib.rc_context(_STYLE):
        for name, make in makers(relations).items():
            drawing.write(make, output / f"{name}.svg")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=cli.parse_flags)
