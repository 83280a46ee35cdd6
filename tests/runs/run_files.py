"""Files of runs, written without training."""

import json
import os
import socket


def config(**fields):
    """Returns the content of config.json of a run of RRD; `fields` override the defaults."""
    content = {
        "data": {"mean": [0.3], "name": "digits", "train_split": "train[:200]"},
        "method": "rrd",
        "objectives": {"rrd": {"temperature_student": None, "temperature_teacher": 0.07}},
        "optimizer": {"learning_rate": 0.05, "nesterov": False},
        "seed": 0,
        "starts": {"first": {"date": "2026-11-26T05:06:05+00:00"}, "latest": {}},
        "student": {"model": "resnet8"},
        "teacher": {"model": "resnet8x4"},
        "train": {"epochs": 3},
    }
    return content | fields


def row(epoch, top1=50.0):
    """Returns a row of metrics.jsonl."""
    return {
        "epoch": epoch,
        "step": 10 * epoch,
        "test/top1": top1,
        "test/loss": 100 / top1,
        "best/top1": top1 + 1,
        "best/epoch": 1,
        "images_per_second": 1234.5,
        "step_milliseconds": 100.0,
    }


def write(folder, *, epochs=3, top1=50.0, saved=None, **fields):
    """Writes the folder of a run.

    Args:
      folder: the folder, which must not exist.
      epochs: number of finished epochs.
      top1: accuracy on the test split after each epoch, in percent.
      saved: the epoch of the last checkpoint, 0 for none; by default the last epoch.
      **fields: fields that override those of `config`.

    Returns:
      The folder.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config(**fields)))
    lines = [json.dumps(row(epoch + 1, top1)) + "\n" for epoch in range(epochs)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "lock").write_text(f"process 1 on {socket.gethostname()}")
    saved = epochs if saved is None else saved
    if saved:
        result = {"top1": top1, "best_top1": top1 + 1, "best_epoch": 1}
        write_checkpoint(folder, 10 * saved, {"epoch": saved, "result": result})
    return folder


def write_checkpoint(folder, step, meta):
    """Writes the metadata of a checkpoint."""
    path = folder / "checkpoints" / str(step) / "meta"
    path.mkdir(parents=True)
    (path / "metadata").write_text(json.dumps({"meta": meta, "digests": {}, "seal": ""}))


def backdate(folder):
    """Sets the modification times of all files to years ago; returns the folder."""
    for name in ("config.json", "metrics.jsonl", "lock"):
        if (folder / name).exists():
            os.utime(folder / name, (1e9, 1e9))
    return folder
