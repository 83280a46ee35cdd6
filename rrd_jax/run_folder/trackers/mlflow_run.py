"""Runs in MLflow, on a tracking server or in its file store."""

import importlib.util
import os
import re
import time
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

from rrd_jax.run_folder.config_fields import flatten
from rrd_jax.run_folder.trackers.messages import Status

_STATES = {Status.FINISHED: "FINISHED", Status.FAILED: "FAILED", Status.STOPPED: "KILLED"}
_ID_TAG = "rrd_jax.run"
# The metric that each row has; its steps are the reported steps.
_COUNTER = "epoch"
# Limits of MLflow: parameters in a call, and characters of a value.
_BATCH, _LONGEST = 100, 500


class Run:
    """A run of MLflow.

    Args:
      client: the client.
      run_id: MLflow's id of the run.
      location: the run, for people.
    """

    def __init__(self, client: MlflowClient, run_id: str, location: str):
        self._client, self._id, self.location = client, run_id, location
        self._step, self._is_first = -1, True

    def last_step(self) -> int:
        """Returns the last reported step; -1 for a new run."""
        return max(self._reported(_COUNTER), default=-1)

    def log(self, row: Mapping[str, float]) -> None:
        """Reports the metrics of an epoch; the counter is the last."""
        self._step, now = row["step"], int(time.time() * 1000)
        names = [name for name in row if name not in ("step", _COUNTER)]
        if self._is_first:
            # A kill can leave a part of a row.
            names = [name for name in names if self._step not in self._reported(_metric(name))]
        metrics = [Metric(_metric(name), row[name], now, self._step) for name in names]
        metrics.append(Metric(_COUNTER, row[_COUNTER], now, self._step))
        self._client.log_batch(self._id, metrics=metrics)
        self._is_first = False

    def end(self, status: Status, summary: Mapping[str, Any]) -> None:
        """Ends this start of the run."""
        for name, value in summary.items():
            self._client.set_tag(self._id, f"result.{name}", _text(value))
        self._client.set_terminated(self._id, _STATES[status])

    def _reported(self, metric: str) -> list[int]:
        return [entry.step for entry in self._client.get_metric_history(self._id, metric)]


def start(run: Mapping[str, Any]) -> Run:
    """Creates a run, or continues the run with the same id."""
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and importlib.util.find_spec("sqlalchemy") is None:
        # The database that is MLflow's default needs this library.
        uri = f"file:{os.getcwd()}/mlruns"
    # Without a database or a server, MLflow writes files only if this variable permits it.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(run["project"])
    number = experiment.experiment_id if experiment else client.create_experiment(run["project"])
    earlier = client.search_runs([number], f"tags.`{_ID_TAG}` = '{run['id']}'")
    if earlier:
        run_id, params = earlier[0].info.run_id, dict(earlier[0].data.params)
        client.update_run(run_id, status="RUNNING")
    else:
        tags = {_ID_TAG: run["id"], "group": run["group"]}
        created = client.create_run(number, run_name=run["name"], tags=tags)
        run_id, params = created.info.run_id, {}
    _log_config(client, run_id, run["config"], params)
    return Run(client, run_id, f"experiment {run['project']}, run {run_id}")


def _log_config(
    client: MlflowClient, run_id: str, config: Mapping[str, Any], params: Mapping[str, str]
) -> None:
    """Reports a config as parameters, which MLflow does not change; changed fields become tags."""
    fields = {_metric(name): _text(value) for name, value in flatten(config).items()}
    new = [Param(name, value) for name, value in fields.items() if name not in params]
    for i in range(0, len(new), _BATCH):
        client.log_batch(run_id, params=new[i : i + _BATCH])
    changed = {n: value for n, value in fields.items() if params.get(n, value) != value}
    tags = [RunTag(f"changed.{name}", value) for name, value in changed.items()]
    client.log_batch(run_id, tags=tags)


def _metric(name: str) -> str:
    """Returns a name that MLflow allows.

    The file store needs a file for train/loss, so that train/loss/ce becomes train/loss.ce.
    """
    section, slash, rest = name.partition("/")
    return re.sub(r"[^\w\-./ ]", "_", section + slash + rest.replace("/", "."))


def _text(value: Any) -> str:
    return str(value)[:_LONGEST]
