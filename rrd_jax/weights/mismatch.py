"""Why a state dict does not fit a network, in a few lines: the likely reason, then examples."""

import re

from rrd_jax import networks
from rrd_jax.weights import entry_templates, families, foreign_layouts, published
from rrd_jax.weights.entry_search import Flat, listed, places, shown
from rrd_jax.weights.entry_templates import Shape

_ROWS = 3
_LIST = "which is not read; `python -m rrd_jax.networks` lists the networks that are"
_LITTLE = 0.3  # a share of a network's entries below which a file is of another one
_OPTIMIZER = re.compile(
    r"(^|\.)(param_groups|exp_avg\w*|max_exp_avg\w*|momentum_buffer|step)(\.|$)"
)
_STATISTICS = ("running_mean", "running_var")


def describe(name: str, given: dict[str, Shape], flat: Flat) -> str:
    """What differs, in at most six lines.

    Args:
      name: of the network.
      given: the shapes of the entries that come closest to it.
      flat: all that the file holds.
    """
    expected = entry_templates.expected_shapes(name, given)
    fitting = fitting_networks(flat)
    if not fitting and len(expected.keys() & given.keys()) < _LITTLE * len(expected):
        return describe_others(name, flat)
    differing = [e for e in sorted(expected | given) if expected.get(e) != given.get(e)]
    reason = f"it fits {' and '.join(fitting)}" if fitting else _reason(name, expected, given)
    first = f"does not fit {name} in {len(differing)} entries: {reason}"
    rows = {entry: shown(entry) for entry in _instructive(differing, expected, given)}
    width = max(map(len, ("entry", *rows.values())))
    lines = [
        f"  {row:<{width}}  {expected.get(entry, 'absent')!s:<20}  {given.get(entry, 'absent')}"
        for entry, row in rows.items()
    ]
    if len(differing) > len(rows):
        lines.append(f"  and {len(differing) - len(rows)} more")
    header = f"  {'entry':<{width}}  {name + ' has':<20}  the file has"
    return "\n".join([first, header, *lines])


def describe_others(name: str, flat: Flat) -> str:
    """What a file holds where nothing, or little in it has a name of the network's; a line."""
    if "" in flat.arrays:
        return f"holds one tensor of shape {tuple(flat.arrays[''].shape)}, no state dict"
    if not flat.arrays:
        keys = dict.fromkeys(entry.split(".")[0] for entry in flat.others)
        there = flat.others.get("") or listed(keys)
        optimizer = ": the settings of an optimizer" if "param_groups" in keys else ""
        return f"holds no tensors, and so no weights of {name}, but {there}{optimizer}"
    if all(re.fullmatch(r"[\d.]+", entry) for entry in flat.arrays):
        return (
            f"holds {len(flat.arrays)} tensors without names, no state dict; write one with"
            " torch.save(network.state_dict(), FILE)"
        )
    if all(_OPTIMIZER.search(entry) for entry in flat.arrays):
        return f"holds the state of an optimizer, not the weights of {name}"
    if wrong := families.wrong(flat.arrays):
        return f"holds no weights of {name}, but {wrong}"
    if fitting := fitting_networks(flat):
        return f"does not fit {name}: it fits {' and '.join(fitting)}"
    if family := families.family(flat.arrays):
        return f"does not fit {name}: the names are {family}, {_LIST}"
    return f"does not fit {name}: it holds entries of another network: {listed(flat.arrays)}"


def fitting_networks(flat: Flat) -> list[str]:
    """The networks whose entries a file holds."""
    sizes = {size for array in flat.arrays.values() for size in array.shape}
    return [
        name
        for name in networks.MODELS
        if _is_possible(name, flat, sizes) and any(p.is_of(name) for p in places(flat, name)[:1])
    ]


def _is_possible(name: str, flat: Flat, sizes: set[int]) -> bool:
    """Whether a file may hold a network's entries, seen before that is traced, which takes long.

    Args:
      name: of the network.
      flat: what the file holds.
      sizes: of all axes there.
    """
    options = getattr(networks.MODELS[name], "keywords", {})
    widths = [*options.get("widths", ())]
    widths += [options[name] for name in ("width", "stem", "head") if name in options]
    known = published.of(name)
    first = f"{known.timm_ends[0]}.weight" if known.timm == name or known.entries else ""
    own = published.renaming(name, known.entries)
    firsts = (
        own.to_theirs(first) if own else first,
        *(renaming.to_theirs(first) for renaming in published.renamings(name)),
    )
    return sizes.issuperset(widths) and any(entry.endswith(firsts) for entry in flat.arrays)


def _instructive(
    differing: list[str], expected: dict[str, Shape], given: dict[str, Shape]
) -> list[str]:
    """A few of the entries that differ: weights of other shapes before what is only there once."""
    order = sorted(
        differing,
        key=lambda entry: (
            entry not in expected or entry not in given,
            not entry.endswith(".weight"),
        ),
    )
    return sorted(order[:_ROWS], key=differing.index)


def _reason(name: str, expected: dict[str, Shape], given: dict[str, Shape]) -> str:
    """The likely reason, and the way out where there is one."""
    missing, extra = expected.keys() - given.keys(), given.keys() - expected.keys()
    reshaped = {e for e in expected.keys() & given.keys() if expected[e] != given[e]}
    classifier = entry_templates.classifier(name)
    head = " and ".join(sorted({_module(entry) for entry in classifier}))
    if extra and missing and missing <= classifier and not reshaped:
        others = listed({_module(e) for e in extra}, 2)
        return f"its classifier is not {head}, but {others}{_otherwise(given)}"
    if missing and extra and (family := families.family(given)):
        return f"the names are {family}, {_LIST}"
    if _permuted(reshaped, expected, given):
        return "its convolutions have their axes in another order than PyTorch's [O, I, H, W]"
    if missing and not extra and all(entry.endswith(_STATISTICS) for entry in missing):
        return (
            "the batch norms' running statistics are missing: it has other norms, or parameters()"
            " were saved where state_dict() should be"
        )
    if missing and not reshaped and missing <= classifier:
        if missing == classifier:
            return f"its classifier {head} is missing: these are the weights of a backbone alone"
        return f"its classifier lacks {listed(missing, 2)}"
    if reshaped and not missing and not extra and reshaped <= classifier:
        return f"its classifier {head} is not of one number of classes"
    stems = [_kernel(shapes) for shapes in (expected, given)]
    if stems[0] != stems[1]:
        ours, theirs = map(_size, stems)
        return f"its first convolution is {theirs}, {name}'s is {ours}: it is for other image sizes"
    return _layers(name, missing, extra, reshaped, expected)


def _layers(
    name: str, missing: set[str], extra: set[str], reshaped: set[str], expected: dict[str, Shape]
) -> str:
    """The likely reason where more than the ends of the network differ."""
    deeper, shallower = _blocks(extra, expected), _blocks(missing, expected)
    if deeper and not shallower:
        return f"it is of a deeper network than {name}: it has {deeper}"
    if shallower and not extra:
        return f"it is of a shallower network than {name}, or a part of it: it lacks {shallower}"
    if missing and not extra:
        return f"it is not whole: {len(missing)} of {len(expected)} entries are missing"
    if extra and not missing and not reshaped:
        return f"it is another network than {name}, or more than it: it has {listed(extra, 2)} too"
    if reshaped and not missing and not extra:
        if 2 * len(reshaped) > len(expected):
            return "it has the same layers, but of another width"
        return f"it is another network than {name}, or damaged: a few shapes differ"
    return f"it is of a network that resembles {name}, but is another one"


def _blocks(entries: set[str], expected: dict[str, Shape]) -> str:
    """A whole block among entries, such as layer3.22, of a stage of the network; "" for none."""
    blocks = {match[0] for entry in entries if (match := re.match(r".*?\.\d+(?=\.)", entry))}
    others = expected.keys() - entries
    stages = {match[1] for entry in others if (match := re.match(r"(.*?\.)\d+\.", entry))}
    whole = [
        block
        for block in blocks
        if block.rpartition(".")[0] + "." in stages
        and not any(entry.startswith(f"{block}.") for entry in others)
    ]
    return max(whole, key=lambda block: (len(block), block), default="")


def _permuted(reshaped: set[str], expected: dict[str, Shape], given: dict[str, Shape]) -> bool:
    kernels = [entry for entry in reshaped if len(given[entry]) == 4 == len(expected[entry])]
    alike = [entry for entry in kernels if sorted(given[entry]) == sorted(expected[entry])]
    return len(alike) > 1 and 2 * len(alike) > len(kernels)


def _otherwise(given: dict[str, Shape]) -> str:
    """What another classifier reads, where transformers has it."""
    if given.keys().isdisjoint(foreign_layouts.OTHER_CLASSIFIER) or not any(
        "attn.qkv" in entry for entry in given
    ):
        return ""
    return ", which reads the mean of the squares' tokens: only the network before it can be taken"


def _module(entry: str) -> str:
    return entry.rpartition(".")[0]


def _kernel(shapes: dict[str, Shape]) -> Shape:
    """Height and width of the first convolution; () where there is none of that name."""
    shape = shapes.get("conv1.weight", ())
    return shape[2:] if len(shape) == 4 else ()


def _size(kernel: Shape) -> str:
    return "x".join(map(str, kernel)) or "missing"
