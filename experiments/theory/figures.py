"""The figures: each line from the code itself, and beside it from its formula in float64."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from experiments.theory import code, formulas
from experiments.theory.embeddings import Embeddings, embeddings, turned, with_own_keys
from rrd_jax.objectives import rrd

_PRESETS = {
    name: (values["temperature_student"], values["temperature_teacher"])
    for name, values in rrd.PRESETS.items()
    if values["teacher_projection"]  # the published forms of RRD
}
_TEACHERS = tuple(sorted({teacher for _, teacher in _PRESETS.values()}))  # 0.02 and 0.10


@dataclasses.dataclass(frozen=True)
class Series:
    """A line of a figure.

    Attributes:
      name: what it is; a line of the code and the one of its formula have the same name.
      x: values, ascending.
      y: as many values.
      kind: "code" for what rrd_jax computes in float32, "formula" for the same in float64 without
        it, "bound" for what the lines cannot cross, or come to in the limit.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    kind: Literal["code", "formula", "bound"]


@dataclasses.dataclass(frozen=True)
class Curves:
    """A figure as numbers.

    Attributes:
      name: such as "entropy_floor".
      title: a few words.
      x_label: with its unit, if it has one.
      y_label: with its unit.
      log_x: whether the x axis is logarithmic.
      log_y: whether the y axis is.
      series: the lines.
      note: what it shows, in a sentence.
      formula: as text.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    log_x: bool
    log_y: bool
    series: tuple[Series, ...]
    note: str
    formula: str


def gradient_against_temperature(given: Embeddings | None = None, points: int = 31) -> Curves:
    """How long the gradient is that a student's embedding gets, for each tau_s."""
    given = given or embeddings()
    x = _temperatures(0.01, 1.0, points)
    series = []
    for tau_t in _TEACHERS:
        series += _both(
            f"tau_t = {tau_t:.2f}",
            x,
            (code.gradient(given, tau_s, tau_t) for tau_s in x),
            (formulas.gradient(given, tau_s, tau_t) for tau_s in x),
        )
    series.append(_line("2 / tau_s", "bound", x, (2 / tau_s for tau_s in x)))
    lengths = {name: formulas.gradient(given, *taus) for name, taus in _PRESETS.items()}
    listed = " and ".join(f"{length:.2f} with {name}" for name, length in lengths.items())
    return Curves(
        name="gradient_against_temperature",
        title="Gradient against the student's temperature",
        x_label="student's temperature tau_s",
        y_label="mean length of the gradient for a student's embedding",
        log_x=True,
        log_y=True,
        series=tuple(series),
        note=(
            "The colder the student, the longer a gradient it can get, up to 2 / tau_s; it is"
            " shorter where student and teacher relate alike. With the temperatures of the presets"
            f" its mean length is {listed}."
        ),
        formula="d loss / d z_s = (1 / tau_s) sum_k (p_s(k) - p_t(k)) m_k",
    )


def loss_against_temperature(given: Embeddings | None = None, points: int = 31) -> Curves:
    """The loss for each tau_s, from the teacher's entropy up, and its limit log K."""
    given = given or embeddings()
    x = _temperatures(0.01, 10.0, points)
    series, best = [], {}
    for tau_t in _TEACHERS:
        name = f"tau_t = {tau_t:.2f}"
        series += _both(
            name,
            x,
            (code.loss(given, tau_s, tau_t) for tau_s in x),
            (formulas.loss(given, tau_s, tau_t) for tau_s in x),
        )
        best[name] = x[int(np.argmin(series[-1].y))]
        floor = formulas.entropy(given, tau_t)
        series.append(_line(f"entropy of p_t, {name}", "bound", x, [floor] * points))
    series.append(_line("log K", "bound", x, [np.log(len(given.memory))] * points))
    listed = " and ".join(f"{tau_s:.2f} for {name}" for name, tau_s in best.items())
    return Curves(
        name="loss_against_temperature",
        title="Loss against the student's temperature",
        x_label="student's temperature tau_s",
        y_label="mean loss (nats)",
        log_x=True,
        log_y=False,
        series=tuple(series),
        note=(
            f"For one and the same student the loss is least near tau_s = {listed}; it is never"
            " below the teacher's entropy, and comes to log K for a warm student, whose relations"
            " say nothing."
        ),
        formula="loss = - sum_k p_t(k) log p_s(k) >= - sum_k p_t(k) log p_t(k)",
    )


def infonce_limit(given: Embeddings | None = None, points: int = 31) -> Curves:
    """With the own key in memory and a cold teacher, RRD is InfoNCE, as crd.infonce_loss."""
    given = with_own_keys(given or embeddings())
    tau_s, _ = _PRESETS["sharp_teacher"]
    x = _temperatures(0.01, 1.0, points)
    limit = formulas.infonce(given, tau_s)
    series = [
        *_both(
            "RRD",
            x,
            (code.loss(given, tau_s, tau_t) for tau_t in x),
            (formulas.loss(given, tau_s, tau_t) for tau_t in x),
        ),
        *_both("InfoNCE", x, [code.infonce(given, tau_s)] * points, [limit] * points),
    ]
    gaps = " and ".join(
        f"{formulas.loss(given, tau_s, tau_t) - limit:+.2g} nats at tau_t = {tau_t:.2f}"
        for tau_t in _TEACHERS
    )
    return Curves(
        name="infonce_limit",
        title="The limit of InfoNCE",
        x_label="teacher's temperature tau_t",
        y_label="mean loss (nats)",
        log_x=True,
        log_y=False,
        series=tuple(series),
        note=(
            "With the image's own key in memory, a cold teacher relates the image to itself alone,"
            f" and RRD becomes InfoNCE; from that it is {gaps}."
        ),
        formula=(
            "- sum_k p_t(k) log p_s(k) -> - log p_s(own key) for tau_t -> 0;"
            f" tau_s = {tau_s:.2f} throughout"
        ),
    )


def kl_at_equal_temperatures(given: Embeddings | None = None, points: int = 31) -> Curves:
    """With one temperature for both, RRD is an entropy plus KL, as kd.kd_loss of similarities."""
    given = given or embeddings()
    x = _temperatures(0.02, 2.0, points)
    entropies = [formulas.entropy(given, tau) for tau in x]
    divergences = [formulas.divergence(given, tau) for tau in x]
    series = [
        *_both("RRD", x, (code.loss(given, tau, tau) for tau in x), np.add(divergences, entropies)),
        *_both("KL(p_t || p_s)", x, (code.divergence(given, tau) for tau in x), divergences),
        _line("entropy of p_t", "bound", x, entropies),
    ]
    return Curves(
        name="kl_at_equal_temperatures",
        title="KL at equal temperatures",
        x_label="temperature of both, tau",
        y_label="mean over images (nats)",
        log_x=True,
        log_y=False,
        series=tuple(series),
        note=(
            "With one temperature for student and teacher, RRD is the divergence of their relations"
            " plus the teacher's entropy, which no student can change: its gradient is that of the"
            " divergence."
        ),
        formula="- sum_k p_t(k) log p_s(k) = KL(p_t || p_s) + H(p_t)",
    )


def entropy_floor(given: Embeddings | None = None, points: int = 31) -> Curves:
    """The loss while a student's embedding turns away from the teacher's, above its floor."""
    given = given or embeddings()
    x = tuple(np.linspace(0.0, 90.0, points).tolist())
    students = [turned(given, angle) for angle in x]
    warmest = max(_TEACHERS)
    series, above = [], {}
    for name, taus in {"equal": (warmest, warmest), **_PRESETS}.items():
        series += _both(
            f"{name}: tau_s = {taus[0]:.2f}, tau_t = {taus[1]:.2f}",
            x,
            (code.loss(student, *taus) for student in students),
            (formulas.loss(student, *taus) for student in students),
        )
        above[name] = series[-1].y[0] - formulas.entropy(given, taus[1])
    for tau_t in _TEACHERS:
        floor = formulas.entropy(given, tau_t)
        series.append(_line(f"entropy of p_t, tau_t = {tau_t:.2f}", "bound", x, [floor] * points))
    return Curves(
        name="entropy_floor",
        title="The entropy floor",
        x_label="angle between the student's and the teacher's embedding (degrees)",
        y_label="mean loss (nats)",
        log_x=False,
        log_y=False,
        series=tuple(series),
        note=(
            "With equal temperatures the loss of a student that agrees with the teacher is the"
            " teacher's entropy, the least it can be; with those of the presets it stays"
            f" {above['sharp_student']:.2f} (sharp_student) and {above['sharp_teacher']:.2f} nats"
            " (sharp_teacher) above that, since relations of embeddings of length 1 are then not"
            " equally sharp."
        ),
        formula="loss >= H(p_t), with equality where z_s . m_k / tau_s = z_t . m_k / tau_t + c",
    )


ALL: tuple[Callable[[], Curves], ...] = (
    gradient_against_temperature,
    loss_against_temperature,
    infonce_limit,
    kl_at_equal_temperatures,
    entropy_floor,
)


def _both(
    name: str, x: Sequence[float], computed: Iterable[float], derived: Iterable[float]
) -> list[Series]:
    """The line of the code and the one of its formula."""
    return [_line(name, "code", x, computed), _line(name, "formula", x, derived)]


def _line(name: str, kind: str, x: Sequence[float], y: Iterable[float]) -> Series:
    return Series(name, tuple(x), tuple(float(value) for value in y), kind)


def _temperatures(low: float, high: float, points: int) -> tuple[float, ...]:
    return tuple(np.geomspace(low, high, points).tolist())
