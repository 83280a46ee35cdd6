"""Executes the notebooks of docs/tutorials and stores their outputs.

    python -m experiments.notebooks
    python -m experiments.notebooks docs/tutorials/distil_digits.ipynb

Requires `pip install 'rrd_jax[notebooks,onnx]'`. Each notebook runs in a temporary folder.
"""

import pathlib
import sys
import tempfile
from typing import Any

_FOLDER = pathlib.Path(__file__).parents[1] / "docs" / "tutorials"
# Seconds.
_CELL_TIMEOUT = 300


def execute(path: pathlib.Path) -> Any:
    """Executes a notebook and returns it with new outputs, as an nbformat node.

    Raises:
      nbclient.exceptions.CellExecutionError: a cell raises an exception.
    """
    import nbclient
    import nbformat
    from traitlets.config import Config

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as home, tempfile.TemporaryDirectory() as folder:
        # Unix sockets, because the kernel prints a warning about ports.
        connection = {"transport": "ipc", "connection_file": f"{home}/kernel.json"}
        nbclient.NotebookClient(
            notebook,
            config=Config(KernelManager=connection),
            resources={"metadata": {"path": folder}},
            timeout=_CELL_TIMEOUT,
            record_timing=False,
        ).execute()
    # The full language info depends on the machine and would change the file on each machine.
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def main(arguments: list[str]) -> None:
    """Executes the notebooks of the given paths, or all notebooks, and overwrites them."""
    import nbformat

    for path in map(pathlib.Path, arguments) if arguments else sorted(_FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)
        print(f"executed {path.name}")


if __name__ == "__main__":
    main(sys.argv[1:])
