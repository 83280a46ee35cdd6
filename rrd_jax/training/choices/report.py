"""Choices of the trackers to which a run reports its metrics."""

import dataclasses

from rrd_jax import settings
from rrd_jax.settings import field, kinds

TENSORBOARD = "tensorboard"
# Trackers with projects and groups, each in an extra of the package.
TRACKERS = ("wandb", "mlflow", "trackio")
_NAMES = kinds.Names((TENSORBOARD, *TRACKERS))


def _without_projects(values: settings.Values) -> str:
    chosen = _NAMES.value(values["report.to"])
    return "" if set(chosen) & set(TRACKERS) else f"report.to names none of {', '.join(TRACKERS)}"


@dataclasses.dataclass(frozen=True)
class ReportChoice:
    """The trackers to which a run reports its metrics, in addition to metrics.jsonl.

    Attributes:
      to: Trackers that receive the metrics of each epoch: tensorboard, wandb, mlflow and trackio,
        separated by commas; () for none. Each tracker is configured by its own environment
        variables, such as WANDB_MODE=offline or MLFLOW_TRACKING_URI.
      project: Project of wandb and trackio, and experiment of MLflow; '' for rrd_jax.
      group: Group of related runs in the trackers; '' for the name of the job's workdir, or of the
        study.
    """

    to: tuple[str, ...] = field("report.to", (TENSORBOARD,), _NAMES, changeable=True)
    project: str = field(
        "report.project", "", kinds.Text(), changeable=True, unused=_without_projects
    )
    group: str = field("report.group", "", kinds.Text(), changeable=True, unused=_without_projects)
