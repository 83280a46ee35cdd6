"""Names of classes from a file, in place of the data's own."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from rrd_jax import errors


def read(path: pathlib.Path, num_classes: int, field: str) -> tuple[str, ...]:
    """The names in a file, in the order of labels.

    It is text with a name a line; or JSON: a list of names, or names by label, {"0": "tench"}. In
    place of a name JSON may have a list that ends with it, as ImageNet's ["n01440764", "tench"].

    Args:
      path: of the file.
      num_classes: C.
      field: that names the file, for messages.

    Raises:
      InputError: it cannot be read, or does not name each class.
    """
    subject = f"{field} is '{path}'"
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _names(text)
    except OSError as error:
        raise errors.InputError(f"{subject}, which cannot be read: {error.strerror}") from error
    except (RecursionError, ValueError) as error:
        raise errors.InputError(f"{subject}, which does not hold names: {error}") from error
    if len(names) != num_classes:
        raise errors.InputError(
            f"{subject}, which holds {len(names):,} names, but there are {num_classes:,} classes: a"
            " name for each is wanted, in the order of labels"
        )
    return names


def _names(text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith(("{", "[")):
        return tuple(line.strip() for line in text.rstrip().splitlines())
    content = json.loads(text)
    if isinstance(content, Mapping):
        content = content.get("id2label", content)  # as Hugging Face's config.json has it
        labels = sorted(content, key=int)
        if [int(label) for label in labels] != list(range(len(labels))):
            raise ValueError(f"its labels are {', '.join(labels[:4])} ..., and not 0, 1, 2 ...")
        content = [content[label] for label in labels]
    return tuple(map(_name, content))


def _name(value: Any) -> str:
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{str(value)[:40]!r} is no name")
    return value.strip()
