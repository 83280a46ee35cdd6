"""What the folder of a run says of it, in JSON and locks: nothing is loaded, nothing is touched."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors
from rrd_jax.run_folder import flat
from rrd_jax.runs import finding, locks
from rrd_jax.runs.finding import Place

STATES = ("running", "done", "died", "damaged")
_TAIL = 8192  # bytes of metrics.jsonl, which hold its last row
_SILENT = 600.0  # seconds after which a run of another machine is taken for dead, if not 3 epochs


@dataclasses.dataclass
class Run:
    """A run, as its folder has it.

    Attributes:
      place: the folder.
      config: its fields; {} where they cannot be read.
      starts: command, host, versions of the first and the latest start.
      row: the last row of metrics.jsonl.
      saved: the epoch of the newest checkpoint; None where there are none, or none can be read.
      result: the run's figures that it keeps.
      epoch: how many are finished.
      epochs: how many there will be; None where nothing says it.
      state: one of STATES.
      why: what is known of the reason, a clause, or "".
      holder: of its lock, if it is running.
      changed: when something was last written, in seconds since 1970.
      works_on: the run in its folder that is running, by name.
      others: paths of the other runs, whose files are not counted as its own.
    """

    place: Place
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    starts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    row: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    saved: int | None = None
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epoch: int = 0
    epochs: int | None = None
    state: str = "died"
    why: str = ""
    holder: locks.Holder | None = None
    changed: float = 0.0
    works_on: str = ""
    others: frozenset[str] = frozenset()

    @functools.cached_property
    def size(self) -> int:
        """Bytes of its files, but for those of runs in its folder."""
        return finding.size(self.place, self.others)

    @property
    def seconds_per_epoch(self) -> float | None:
        """Of its steps alone, at the speed of the last row; None where there is none."""
        step, epoch = self.row.get("step"), self.row.get("epoch")
        milliseconds = self.row.get("step_milliseconds")
        if not all(map(is_number, (step, epoch, milliseconds))) or not epoch:
            return None
        return milliseconds / 1000 * step / epoch


def read(folder: str) -> tuple[list[Run], list[str]]:
    """The runs in a folder and below it, and the folders that may not be listed."""
    search, held, now = finding.search(folder), locks.Locks(), time.time()
    runs: dict[int, Run] = {}  # by the identity of their places
    others = frozenset(place.path for place in search.places)
    for place in search.places:
        above = runs.get(id(place.above)) if place.above else None
        run = _read(place, above, held, now)
        if run is not None:
            run.others = others
            runs[id(place)] = run
    for run in runs.values():
        if run.holder and run.place.above and (above := runs.get(id(run.place.above))):
            above.works_on = run.place.name.rpartition("/")[2]
    for run in runs.values():
        run.why = run.why or _reason(run)
    return list(runs.values()), search.unreadable


def _read(place: Place, above: Run | None, held: locks.Locks, now: float) -> Run | None:
    run, damages = Run(place, changed=_changed(place)), []
    if place.role == "stage":
        if above is None:
            return None
        run.config, run.starts = above.config, above.starts
    else:
        damages += _read_config(run)
        if not run.config and not damages:
            return None
    damages += _read_figures(run)
    run.epochs = _epochs(run)
    if run.epochs is None and not damages and place.role != "stage":
        damages.append("config.json has no train.epochs")
    run.why = "; ".join(damages)
    run.holder = _holder(run, above, held, now)
    if damages and run.holder and not run.holder.holds:
        run.holder = None  # the guess that it is running has too little to go by
    if run.holder:
        run.state = "running"
    elif damages:
        run.state = "damaged"
    elif _is_done(run, above):
        run.state = "done"
    return run


def _changed(place: Place) -> float:
    latest = 0.0
    for name in ("metrics.jsonl", "lock", "config.json"):
        if name in place.entries:
            with contextlib.suppress(OSError):
                latest = max(latest, place.entries[name].stat().st_mtime)
    return latest


def _read_config(run: Run) -> list[str]:
    """Fills in config and starts; returns what is damaged."""
    if "config.json" not in run.place.entries:
        return ["config.json is missing"]
    try:
        content = errors.read_json(pathlib.Path(run.place.path, "config.json"))
    except OSError as error:
        return [f"config.json cannot be read ({error.strerror})"]
    except ValueError:
        with contextlib.suppress(OSError):
            if not run.place.entries["config.json"].stat().st_size:
                return ["config.json is empty"]
        return ["config.json is no JSON"]
    sections = content if isinstance(content, dict) else {}
    if not all(isinstance(sections.get(name), dict) for name in ("student", "train")):
        # Other programs keep a file of that name too.
        return ["config.json has no fields of a run"] if "lock" in run.place.entries else []
    starts = content.pop("starts", {})
    run.config, run.starts = content, starts if isinstance(starts, dict) else {}
    return []


def _read_figures(run: Run) -> list[str]:
    """Fills in the last row, the epochs that are finished, and what a checkpoint keeps of them."""
    damages = []
    if "metrics.jsonl" in run.place.entries:
        try:
            run.row, whole = _last_row(run.place.entries["metrics.jsonl"].path)
            damages += [] if whole else ["the last line of metrics.jsonl cannot be read"]
        except OSError as error:
            damages.append(f"metrics.jsonl cannot be read ({error.strerror})")
    if "checkpoints" in run.place.entries:
        meta, damage = _newest_meta(run.place.entries["checkpoints"].path)
        damages += damage
        run.saved, run.result = meta.get("epoch"), meta.get("result") or {}
        if not meta and not damage and "results.json" not in run.place.entries:
            run.saved = 0  # it was stopped in its first save
    run.epoch = max(run.row.get("epoch", 0), run.saved or 0)
    return damages


def _last_row(path: str) -> tuple[dict[str, Any], bool]:
    """The last row of a metrics file, and whether the last whole line is one.

    A kill can leave half a line at the end, which the next start writes again.
    """
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        start = max(0, end - _TAIL)
        file.seek(start)
        content = file.read()
        if start and content.count(b"\n") < 2:
            file.seek(0)
            start, content = 0, file.read()
    *lines, rest = content.split(b"\n")
    if row := _row(rest):
        return row, True
    lines = [line for line in lines[1 if start else 0 :] if line.strip()]
    rows = (row for line in reversed(lines) if (row := _row(line)))
    return next(rows, {}), not lines or bool(_row(lines[-1]))


def rows(run: Run) -> list[dict[str, Any]]:
    """All rows of a run's metrics that can be read."""
    try:
        content = pathlib.Path(run.place.path, "metrics.jsonl").read_bytes()
    except OSError:
        return []
    return [row for line in content.split(b"\n") if (row := _row(line))]


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and is_number(row.get("epoch")) else None


def is_number(value: Any) -> bool:
    """Whether it is a number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _newest_meta(folder: str) -> tuple[dict[str, Any], list[str]]:
    """The JSON of the newest checkpoint, and what is damaged."""
    try:
        with os.scandir(folder) as entries:
            steps = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    except OSError:
        return {}, []
    if not steps:
        return {}, []
    step = max(steps)
    try:
        content = errors.read_json(pathlib.Path(folder, str(step), "meta", "metadata"))
        meta = content["meta"]
        if not isinstance(meta, dict) or not is_number(meta["epoch"]):
            raise ValueError(step)
    except (OSError, ValueError, TypeError, KeyError):
        return {}, [f"checkpoint {step} cannot be read"]
    return meta if isinstance(meta.get("result"), dict | None) else {"epoch": meta["epoch"]}, []


def _epochs(run: Run) -> int | None:
    if run.place.role == "stage":
        about: Any = {}
        with contextlib.suppress(OSError, ValueError):
            about = errors.read_json(pathlib.Path(run.place.path, "model.json"))
        epochs = flat.value(about, "training.epochs")
    else:
        epochs = flat.value(run.config, "train.epochs")
    return epochs if is_number(epochs) else None


def _holder(run: Run, above: Run | None, held: locks.Locks, now: float) -> locks.Holder | None:
    """The process that works on a run; None for none."""
    if run.place.role == "stage":  # it has no lock of its own
        return None if _is_done(run, above) else above.holder
    lock = run.place.entries.get("lock")
    if lock is None or (_is_complete(run) and not held.mentions(lock.inode())):
        return None
    holder = held.holder(lock.path)
    if holder is None or holder.holds is False:
        return None
    patience = max(_SILENT, 3 * (run.seconds_per_epoch or 0))
    if holder.holds is None and (_is_complete(run) or now - run.changed > patience):
        return None
    return holder


def _is_complete(run: Run) -> bool:
    """Whether all its epochs are made, and saved unless its checkpoints are gone."""
    made = run.epoch if run.saved is None else run.saved
    return run.epochs is not None and made >= run.epochs


def _is_done(run: Run, above: Run | None) -> bool:
    goes_on = run.place.role == "stage" and above.epoch > 0  # the run that it comes before
    return _is_complete(run) or goes_on


def _reason(run: Run) -> str:
    """Why a run is in its state, where its folder has a hint."""
    if run.state == "running":
        if run.works_on and not run.epoch:
            return f"{run.works_on} comes first"
        return "its lock is not seen from here" if run.holder.holds is None else ""
    if run.state == "died":
        crashes = sorted(name for name in run.place.entries if name.startswith("crash-"))
        if crashes:
            return f"see {crashes[-1]}"
        if "failed.json" in run.place.entries:  # of a study
            return "see failed.json"
        if run.epochs is not None and run.epoch >= run.epochs:
            return "its last epoch is not saved"
    return ""
