"""Executes the notebooks of docs/tutorials, and stores what they show.

    python -m experiments.notebooks
    python -m experiments.notebooks docs/tutorials/distil_digits.ipynb

Needs pip install 'rrd_jax[notebooks,onnx]'. A notebook runs in an empty folder, which is removed.
"""

import pathlib
import sys
import tempfile
from typing import Any

_FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
_SECONDS = 300  # of a cell, at most


def execute(path: pathlib.Path) -> Any:
    """A notebook with what its cells show now, as nbformat has it.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell fails.
    """
    import nbclient
    import nbformat
    from traitlets.config import Config

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as folder:
        # Sockets in a folder of ours, not ports, of which the kernel would warn.
        connection = {"transport": "ipc", "connection_file": f"{home}/kernel.json"}
        nbclient.NotebookClient(
            notebook,
            config=Config(KernelManager=connection),
            resources={"metadata": {"path": folder}},
            timeout=_SECONDS,
            record_timing=False,
        ).execute()
    # Of the machine it ran on; the next one's would be a change of the file.
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main(arguments: list[str]) -> None:
    """Executes notebooks, all of them unless some are named."""
    import nbformat

    for path in map(pathlib.Path, arguments) if arguments else sorted(_FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(f"{path.name} is executed")


if __name__ == "__main__":
    main(sys.argv[1:])
