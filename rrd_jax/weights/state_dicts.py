"""PyTorch state dicts to our variables and back, by name."""

from typing import Any

import numpy as np
from flax import traverse_util

from rrd_jax import errors, networks
from rrd_jax.terminal import console
from rrd_jax.weights import (
    entry_layouts,
    entry_search,
    entry_templates,
    entry_values,
    foreign_layouts,
    mismatch,
    published,
)

_ROWS = 4


def from_torch(
    name: str,
    state_dict: Any,
    *,
    where: str = "the state dict",
    key: str = "",
    headless: bool = False,
) -> dict[str, Any]:
    """Variables of network `name` from a PyTorch state dict, or what a script saved it in.

    Keys and prefixes before the entries' names are found out, such as `state_dict`, `model`,
    `module.` and `student.`. Where there are averaged weights beside the raw ones, they are taken,
    and a note says so.

    Args:
      name: a key of `networks.MODELS` or `networks.ALIASES`.
      state_dict: entry name to array or tensor, or dicts of such; classes and image channels are
        read off it.
      where: it is from, for messages.
      key: what stands before the names of the entries to take, such as "state_dict_ema"; "" to
        find out.
      headless: whether the classifier may be missing; it is missing in the variables then.

    Returns:
      {"params": ..., "batch_stats": ...} of float32 numpy arrays.

    Raises:
      InputError: names or shapes differ, and the message says how; two networks are there and
        `key` names neither; or there are no finite floats.
    """
    template = entry_templates.template(name)
    try:
        entries = _entries(name, state_dict, where, key, headless=headless)
        arrays = _values(name, entries)
    except entry_search.MisfitError as error:
        raise errors.InputError(f"{where} {error}") from None
    flat = {
        path: np.ascontiguousarray(entry_templates.from_torch_layout(path[-1], arrays[entry], rank))
        for entry, (path, _, rank) in template.items()
        if entry in arrays
    }
    return {"batch_stats": {}, **traverse_util.unflatten_dict(flat)}


def _entries(name: str, content: Any, where: str, key: str, *, headless: bool) -> dict[str, Any]:
    """The entries of a network in what a file holds."""
    flat = entry_search.flatten(content)
    if key:
        flat = entry_search.below(flat, key)
    if not flat.arrays or not (found := entry_search.places(flat, name)):
        raise entry_search.MisfitError(mismatch.describe_others(name, flat))
    place, note = entry_search.choose(found, flat, name, below=key)
    if headless and not place.is_of(name):
        place, left = place.without(foreign_layouts.OTHER_CLASSIFIER)
        if left and place.is_backbone_of(name):
            console.note(
                f"{where}: its classifier is left out, which reads more than the embedding"
            )
    if not place.is_of(name) and not (headless and place.is_backbone_of(name)):
        raise entry_search.MisfitError(mismatch.describe(name, place.shapes, flat))
    if note:
        console.note(f"{where}: {note}")
    return place.entries


def _values(name: str, entries: dict[str, Any]) -> dict[str, np.ndarray]:
    """Their numbers; classes and channels that are none are no network's."""
    arrays, faults = entry_values.all_of(entries)
    if len(faults) == 1:
        raise entry_search.MisfitError(f"cannot be used as {name}: {faults[0]}")
    if faults:
        lines = [f"  {fault}" for fault in faults[:_ROWS]]
        if len(faults) > _ROWS:
            lines.append(f"  and {len(faults) - _ROWS} more")
        first = f"cannot be used as {name}: of {len(entries)} entries {len(faults)} are no weights:"
        raise entry_search.MisfitError("\n".join([first, *lines]))
    return arrays


def to_torch(name: str, variables: dict[str, Any], *, layout: str = "") -> dict[str, np.ndarray]:
    """The PyTorch state dict of network `name`; inverse of `from_torch`.

    For PyTorch: `{entry: torch.from_numpy(array) for entry, array in to_torch(...).items()}`; for a
    file: `safetensors.numpy.save_file(to_torch(...), path)`.

    PyTorch also counts the batches that each batch norm saw; nothing reads that count with its
    default momentum, and it is written as 0.

    Args:
      name: a key of `networks.MODELS` or `networks.ALIASES`.
      variables: the network's weights.
      layout: whose entries are wanted: "torchvision"; "timm"; "transformers" (of its networks for
        classification, of its models without a head where there is none, of a
        CLIPVisionModelWithProjection); "openai" (its CLIP's); "dinov2" (its authors'); or "" for
        those of the library that has the network by this name, timm's where both have.

    Raises:
      InputError: the name is unknown, the library has no such network, or an entry has no place
        there.
    """
    networks.factory(name)  # raises for an unknown name
    known = published.of(name)
    table = foreign_layouts.of(name, layout) if layout in foreign_layouts.NAMES else None
    is_published = layout in published.LIBRARIES and getattr(known, layout)
    if layout and not (table or is_published):
        there = [library for library in published.LIBRARIES if getattr(known, library)]
        there += [library for library in foreign_layouts.NAMES if foreign_layouts.of(name, library)]
        raise errors.InputError(
            f"'{layout}' has no network that computes what {name} does; those that have:"
            f" {', '.join(there) or 'none'}"
        )
    state_dict = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        entry = entry_templates.entry_name(path)
        array = entry_templates.to_torch_layout(path[-1], np.asarray(leaf))
        state_dict[entry] = np.ascontiguousarray(array)  # or safetensors would write it wrongly
    if table:
        state_dict = entry_layouts.write(table, state_dict)
    for entry in [e for e in state_dict if e.endswith("running_var")]:
        state_dict[entry.replace("running_var", "num_batches_tracked")] = np.array(0)
    if table:
        return state_dict
    renaming = published.renaming(name, layout or published.library_of(name))
    return renaming.write(state_dict) if renaming else state_dict


def sizes(name: str, variables: dict[str, Any]) -> tuple[int, int]:
    """The numbers of classes and of image channels that a network's variables are made for.

    Of variables without a classifier there are 0 classes.
    """
    shapes = {entry: found.shape for entry, found in entry_templates.entries(variables).items()}
    if own_names := published.renaming(name, published.of(name).entries):
        shapes = {own_names.to_theirs(entry): shape for entry, shape in shapes.items()}
    marked = entry_templates.marked_sizes(name, shapes)
    has_head = not entry_templates.classifier(name).isdisjoint(shapes)
    return marked[entry_templates.CLASSES] if has_head else 0, marked[entry_templates.CHANNELS]
