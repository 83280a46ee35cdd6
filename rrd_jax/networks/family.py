"""Records of network families: names, and the equivalents of their entries in other libraries.

The file of a family defines its networks and a `Family`, which the table of networks, the search of
entries in files, and the readers of configs of timm and transformers use.

Native entries are those of rrd_jax, foreign entries those of another library. A layout is a table
of rules. A name that ends with a dot is a module and matches all entries of the module. `{}`
matches a number that both names share. `{+}` and `{++}` match a native number that is larger than
the foreign number by one or two. `{#}` matches a number that only the foreign name has. If one side
has several entries, their rows are concatenated: query, key and value are one native matrix.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Entries = dict[str, Any]
Config = Mapping[str, Any]
_LEAF = r"(weight|bias|running_mean|running_var)"


@dataclasses.dataclass(frozen=True)
class Rule:
    """A pair of corresponding native and foreign entries.

    Attributes:
      native: templates of the native names; several entries share the rows of the foreign entries.
      foreign: templates of the foreign names.
      form: the conversion of foreign arrays: "" for none, or a key of `entry_layouts.FORMS`.
      shares: relative numbers of rows of the native entries.
    """

    native: tuple[str, ...]
    foreign: tuple[str, ...]
    form: str = ""
    shares: tuple[int, ...] = (1,)

    @functools.cached_property
    def pattern(self) -> re.Pattern:
        """The pattern of the first foreign name, with a group for each number and for the leaf."""
        return name_pattern(self.foreign[0])

    def names(self, templates: tuple[str, ...], numbers: list[int], leaf: str) -> list[str]:
        """Fills numbers and a leaf into templates of native or foreign names."""
        return [_filled(template, numbers) + leaf for template in templates]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of a library's state dicts for one kind of network.

    Attributes:
      marker: foreign name of an entry that no other layout has.
      inner: optional prefix of all entries except the classifier's.
      rules: rules of the entries with this prefix.
      heads: rules of the classifier.
      ignored: regular expression of foreign names that the network does not use.
      ignored_ones: regular expression of foreign names that are ignored if all their values are 1.
      zeros: native names of entries that are 0 and have no foreign name -> the entry with the same
        number of rows.
      after: converts the result of the rules to native entries.
      before: the inverse of `after`.
      always: whether `inner` is also written if there is no classifier.
      fits: returns True for the networks whose entries are written in this layout.
      class_position: whether the class token of a network with registers has a position, which
        native entries add to the token, and whether there is an unused mask token.
    """

    marker: str
    inner: str
    rules: tuple[Rule, ...]
    heads: tuple[Rule, ...] = ()
    _: dataclasses.KW_ONLY
    ignored: str = "$^"
    ignored_ones: str = "$^"
    zeros: Mapping[str, str] = dataclasses.field(default_factory=dict)
    after: Callable[[Entries], Entries] = dict
    before: Callable[[Entries], Entries] = dict
    always: bool = False
    fits: Callable[[Any], bool] = lambda network: True
    class_position: bool = False

    @functools.cached_property
    def beginning(self) -> re.Pattern:
        """The pattern of a marker, with the groups `outer` and `inner` for its prefixes."""
        inner = f"(?:{re.escape(self.inner)})?" if self.inner else ""
        return re.compile(rf"(?P<outer>(?:.*?\.)??)(?P<inner>{inner}){re.escape(self.marker)}")


class Kind(NamedTuple):
    """A model type of transformers.

    Attributes:
      description: description of the kind, for messages.
      family: class of the networks in rrd_jax.
      defaults: config values by default.
      fixed: config values that supported networks must have.
      sizes: config -> the values that distinguish networks of the kind, by name.
      network_sizes: network -> the same values; None if the network is of another kind.
      epsilon: config name of the norms' epsilon, "" for none.
      fields: values of `sizes` -> the fields of a variant of a network that have these values; None
        for kinds without variants.
      moments: config names of the mean and the standard deviation by which transformers normalizes
        images inside the network; () for none.
    """

    description: str
    family: type
    defaults: Config
    fixed: Config
    sizes: Callable[[Config], dict[str, Any]]
    network_sizes: Callable[[Any], dict[str, Any] | None]
    epsilon: str = "layer_norm_eps"
    fields: Callable[[Config], dict[str, Any]] | None = None
    moments: tuple[str, ...] = ()


class Family(NamedTuple):
    """The networks of a family, which have timm's names and entries.

    Attributes:
      network: class of the networks.
      networks: factories of the networks by name.
      image_size: height and width in pixels of images for which the networks were published.
      sizes: name -> height and width, where they differ.
      timm_ends: timm's names of the first convolution and of the classifier.
      timm_names: name -> timm's name, where it differs.
      timm_tags: first parts of the tags of weights by which timm tells these networks from others
        of the same name.
      timm_pool: timm's name of the pooling before the classifier.
      is_sized: whether timm requires the image size.
      timm_args: arguments with which timm's network computes the same function.
      layouts: library, "transformers" or a name for the authors' files -> layouts of its entries,
        in the order of the search.
      kinds: model type of transformers -> its configs.
    """

    network: type
    networks: Mapping[str, Callable]
    image_size: int
    timm_ends: tuple[str, str]
    sizes: Mapping[str, int] = {}
    timm_names: Mapping[str, str] = {}
    timm_tags: tuple[str, ...] = ()
    timm_pool: str = "avg"
    is_sized: bool = False
    timm_args: Mapping[str, Any] = {}
    layouts: Mapping[str, tuple[Layout, ...]] = {}
    kinds: Mapping[str, Kind] = {}


def transformer_fields(sizes: Config) -> dict[str, Any]:
    """Implements `Kind.fields` for vision transformers."""
    width, hidden = sizes["hidden_size"], sizes["intermediate_size"]
    # Networks round the product down.
    ratio = hidden / width if int(hidden / width * width) == hidden else (hidden + 0.5) / width
    fields = {
        "width": width,
        "depth": sizes["num_hidden_layers"],
        "heads": sizes["num_attention_heads"],
        "mlp": ratio,
        "patch": sizes["patch_size"],
    }
    registers = sizes.get("num_register_tokens")
    return fields if registers is None else {**fields, "registers": registers}


def transformer_sizes(network: Any) -> dict[str, Any]:
    """Returns the sizes of a vision transformer under their names in configs of transformers."""
    return {
        "hidden_size": network.width,
        "num_hidden_layers": network.depth,
        "num_attention_heads": network.heads,
        "intermediate_size": int(network.width * network.mlp),
        "patch_size": network.patch,
    }


def dino_hidden(config: Config) -> int:
    """Returns the hidden width of the MLPs, in both matrices of a gated one, for DINOv2's config.

    A gated MLP has two matrices, each with 2/3 of the width, rounded up to a multiple of 8.
    """
    hidden = int(config["hidden_size"] * config["mlp_ratio"])
    return 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8) if config["use_swiglu_ffn"] else hidden


def dino_entries(
    mlps: Iterable[tuple[str, str]], groups: Iterable[str] = ("",)
) -> tuple[Rule, ...]:
    """Returns the rules of the names of DINOv2's authors.

    Args:
      mlps: possible names of the layers of the MLPs; the first ones are written.
      groups: possible parts of names before the number of a block, such as "{#}."; the first one is
        written.
    """
    same = ("norm1.", "norm2.", "attn.qkv.", "attn.proj.", "ls1.gamma", "ls2.gamma")
    layers = [
        (f"mlp.fc{i}.", f"mlp.{layer}.") for names in mlps for i, layer in enumerate(names, start=1)
    ]
    return rules(
        *((n, n) for n in ("cls_token", "mask_token", "pos_embed", "patch_embed.proj.", "norm.")),
        ("reg_token", "register_tokens"),
        *(
            (f"blocks.{{}}.{native}", f"blocks.{group}{{}}.{foreign}")
            for group in groups
            for native, foreign in (*zip(same, same, strict=True), *layers)
        ),
    )


def picked(*names: str) -> Callable[[Config], dict[str, Any]]:
    """Returns `Kind.sizes` for values that a config has under the same names."""

    def sizes(config: Config) -> dict[str, Any]:
        return {n: tuple(v) if isinstance(v := config[n], list) else v for n in names}

    return sizes


def rules(*rows: tuple[str, ...]) -> tuple[Rule, ...]:
    """Builds rules from rows (native name, foreign name[, form])."""
    return tuple(Rule((native,), (foreign,), *form) for native, foreign, *form in rows)


def fused(native: str, foreign: str, parts: tuple[str, ...]) -> Rule:
    """Builds the rule of a native entry that joins foreign entries.

    Args:
      native: template of the native name.
      foreign: template of the foreign names; its last `{}` is replaced by each part.
      parts: the parts.
    """
    before, _, after = foreign.rpartition("{}")
    return Rule((native,), tuple(f"{before}{part}{after}" for part in parts))


def name_pattern(template: str) -> re.Pattern:
    """Returns the pattern of a template, with a group for each number and for the leaf."""
    text = re.escape(template)
    for mark, expression in (
        ("{}", r"(\d+)"),
        ("{+}", r"(\d+)"),
        ("{++}", r"(\d+)"),
        ("{#}", r"\d+"),
    ):
        text = text.replace(re.escape(mark), expression)
    return re.compile(text + (_LEAF if template.endswith(".") else "()"))


def _filled(template: str, numbers: list[int]) -> str:
    """Returns a template with its placeholders replaced by numbers."""
    remaining = iter(numbers)
    return re.sub(r"\{(\+*)\}", lambda m: str(next(remaining) + len(m[1])), template)
