"""Draws the figures of docs/architecture.md: python -m docs.making.drawings writes docs/images.

The figures are SVG files with text and without scripts, so that they are sharp at any size. Colors
show which packages are pure and which have side effects; they work on light and dark pages.
"""

import html
import pathlib
from collections.abc import Sequence

_FOLDER = pathlib.Path(__file__).parents[1] / "images"
_WIDTH, _LABEL = 760, 116
_INK, _PAPER = "#1f2933", "#ffffff"
_FILLS = {"pure": "#d9f0e3", "effects": "#fde3cf", "config": "#dfe7fb", "data": "#f1f2f4"}
_EDGES = {"pure": "#3f8f63", "effects": "#c26a21", "config": "#4a63c0", "data": "#8a94a0"}

# Bands of the map from the top: (title, subtitle), and the packages with their captions and kinds.
PACKAGES = (
    (
        ("Commands", "what users start"),
        (
            ("main", "train, evaluate", "effects"),
            ("export, convert", "files", "effects"),
            ("predict", "classes, neighbors", "effects"),
            ("runs", "table of runs", "effects"),
            ("comparison", "size, latency", "effects"),
        ),
    ),
    (
        ("Programs", "what users call"),
        (("library", "distill, train_teacher, load, evaluate", "effects"),),
    ),
    (
        ("A job", "in order"),
        (
            ("config", "every field; ConfigDict to Job", "config"),
            ("jobs", "data, teacher, runs, tables", "effects"),
        ),
    ),
    (("Exports", "by format"), (("exports", "one file per format", "effects"),)),
    (("The teacher", "frozen"), (("teacher", "live or cached", "effects"),)),
    (
        ("Weights", "and metrics"),
        (
            ("weights", "files of other libraries", "effects"),
            ("evaluation", "predictions, alignment", "effects"),
        ),
    ),
    (
        ("Run folder", "on disk"),
        (
            ("run_folder", "lock, metrics, card", "effects"),
            ("checkpoints", "Orbax, digests", "effects"),
        ),
    ),
    (
        ("A step", "on devices"),
        (
            ("parallel", "devices, processes", "effects"),
            ("training", "state, loss, gradient, update", "pure"),
        ),
    ),
    (("Images", "as batches"), (("data", "sets, feeds, views", "effects"),)),
    (
        ("Parts", "known by name"),
        (
            ("objectives", "one file per method", "pure"),
            ("optim", "optimizers, schedules", "pure"),
            ("networks", "one file per family", "pure"),
        ),
    ),
    (
        ("Foundation", "used by all"),
        (
            ("functional", "layers of arrays", "pure"),
            ("settings", "field declarations", "pure"),
            ("cpu", "convolutions, options", "effects"),
            ("terminal", "console, exit codes", "effects"),
            ("buckets", "gs://, s3://", "effects"),
            ("hub", "Hugging Face", "effects"),
        ),
    ),
)


def packages() -> str:
    """Returns the map of the packages: bands of boxes, each of which imports only lower bands."""
    band, parts = 74, []
    for i, (label, boxes) in enumerate(PACKAGES):
        y = 16 + i * band
        parts += [_text(14, y + 26, label[0], bold=True), _text(14, y + 44, label[1], size=11.5)]
        width = (_WIDTH - _LABEL - 16) / len(boxes)
        for j, (name, words, kind) in enumerate(boxes):
            parts.append(_box(_LABEL + 8 + j * width, y, width - 10, 56, name, words, kind))
    y = 16 + len(PACKAGES) * band + 4
    meanings = {"pure": "pure functions", "effects": "side effects", "config": "configuration"}
    for j, (kind, words) in enumerate(meanings.items()):
        x = _LABEL + 8 + j * 170
        parts += [_box(x, y, 22, 14, "", "", kind), _text(x + 30, y + 12, words, size=12)]
    return _drawing(y + 30, parts, "Packages of rrd_jax: each imports only packages below it")


def config_walk() -> str:
    """Returns the path of a config, from the command line to the compiled step."""
    boxes = (
        ("configs/digits.py", "config file and flags", "config"),
        ("ConfigDict", "config.finish: pair, method", "config"),
        ("Job", "config.parse: checks", "config"),
        ("Recipe", "job.run: classes, examples", "config"),
        ("train step", "program.build: compiled", "pure"),
    )
    width, parts = (_WIDTH - 16) / 3, []
    for i, box in enumerate(boxes):
        x, y = 8 + (i % 3) * width, 16 + (i // 3) * 92
        parts.append(_box(x + 6, y, width - 34, 56, *box))
        if i % 3 < 2 and i + 1 < len(boxes):
            parts.append(_arrow([(x + width - 28, y + 28), (x + width + 4, y + 28)]))
    last, first = 8 + 2 * width + width / 2 - 11, 8 + width / 2 - 11
    parts.append(_arrow([(last, 72), (last, 90), (first, 90), (first, 106)]))
    return _drawing(180, parts, "A config becomes a Job, a Recipe and a compiled step")


def batch_walk() -> str:
    """Returns the path of a batch, from the images to the next TrainState."""
    parts = [
        _box(20, 16, 210, 56, "data", "images, decoded or resident", "effects"),
        _box(275, 16, 210, 56, "Batch", "images, labels, indices", "data"),
        _box(530, 16, 210, 56, "step.augmented", "one view per image", "pure"),
        _box(20, 122, 210, 56, "teacher.step_outputs", "live or cached", "pure"),
        _box(530, 122, 210, 56, "student network", "with gradient", "pure"),
        _box(275, 122, 210, 56, "Outputs", "logits, embedding, maps", "data"),
        _box(275, 228, 210, 56, "objectives", "one loss per image", "pure"),
        _box(20, 228, 210, 56, "memory", "queue of teacher embeddings", "data"),
        _box(530, 228, 210, 56, "step.updated", "gradients, Optax", "pure"),
        _box(275, 334, 210, 56, "TrainState", "of the next step", "data"),
        _box(20, 334, 210, 56, "checkpoints", "with digests", "effects"),
        _box(530, 334, 210, 56, "loop, report", "losses, tests, metrics", "effects"),
        _arrow([(230, 44), (275, 44)]),
        _arrow([(485, 44), (530, 44)]),
        _arrow([(635, 72), (635, 122)]),
        _arrow([(580, 72), (580, 97), (125, 97), (125, 122)]),
        _arrow([(230, 150), (275, 150)]),
        _arrow([(530, 150), (485, 150)]),
        _arrow([(380, 178), (380, 228)]),
        _arrow([(230, 248), (275, 248)]),
        _arrow([(275, 264), (230, 264)]),
        _arrow([(485, 256), (530, 256)]),
        _arrow([(635, 284), (635, 309), (420, 309), (420, 334)]),
        _arrow([(125, 284), (125, 309), (340, 309), (340, 334)]),
        _arrow([(275, 362), (230, 362)]),
        _arrow([(485, 362), (530, 362)]),
    ]
    return _drawing(
        406, parts, "A batch passes through teacher and student to the next train state"
    )


def _box(x: float, y: float, w: float, h: float, name: str, words: str, kind: str) -> str:
    rect = (
        f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6" fill="{_FILLS[kind]}"'
        f' stroke="{_EDGES[kind]}"/>'
    )
    middle = x + w / 2
    lines = [(y + h / 2 - 4, name, 14.5, True), (y + h / 2 + 15, words, 11.5, False)]
    return rect + "".join(
        _text(middle, at, text, size=size, bold=bold, anchor="middle")
        for at, text, size, bold in lines
        if text
    )


def _text(
    x: float, y: float, text: str, *, size: float = 14, bold: bool = False, anchor: str = "start"
) -> str:
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}"{weight}'
        f' fill="{_INK}">{html.escape(text)}</text>'
    )


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{_INK}" marker-end="url(#tip)"/>'


def _drawing(height: float, parts: Sequence[str], title: str) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}"'
            f' font-family="system-ui, sans-serif" role="img">',
            f"<title>{html.escape(title)}</title>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
            f' markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="{_INK}"/>'
            "</marker></defs>",
            f'<rect width="{_WIDTH}" height="{height:g}" rx="8" fill="{_PAPER}"/>',
            *parts,
            "</svg>\n",
        ]
    )


DRAWINGS = {"packages.svg": packages, "config_walk.svg": config_walk, "batch_walk.svg": batch_walk}

if __name__ == "__main__":
    for name, draw in DRAWINGS.items():
        (_FOLDER / name).write_text(draw(), encoding="utf-8")
