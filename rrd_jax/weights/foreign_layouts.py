"""Layouts of state dicts of transformers, OpenAI's CLIP and the authors of DINOv2."""

from rrd_jax import networks
from rrd_jax.networks import convnext, mobilenet, regnet, resnet, vit
from rrd_jax.networks.family import Layout, Rule, dino_entries, fused, rules

_PARTS = ("query", "key", "value")
_VIT = (
    *rules(
        ("cls_token", "embeddings.cls_token"),
        ("dist_token", "embeddings.distillation_token"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("blocks.{}.norm1.", "encoder.layer.{}.layernorm_before."),
        ("blocks.{}.norm2.", "encoder.layer.{}.layernorm_after."),
        ("blocks.{}.attn.proj.", "encoder.layer.{}.attention.output.dense."),
        ("blocks.{}.mlp.fc1.", "encoder.layer.{}.intermediate.dense."),
        ("blocks.{}.mlp.fc2.", "encoder.layer.{}.output.dense."),
        ("norm.", "layernorm."),
    ),
    fused("blocks.{}.attn.qkv.", "encoder.layer.{}.attention.attention.{}.", _PARTS),
)
_IGNORED = r"pooler\.|embeddings\.mask_token"
_CLASSIFIER = rules(("head.", "classifier."))


_MLP = rules(
    ("blocks.{}.mlp.fc1.", "encoder.layer.{}.mlp.fc1."),
    ("blocks.{}.mlp.fc2.", "encoder.layer.{}.mlp.fc2."),
)
_GATED_MLP = rules(
    ("blocks.{}.mlp.fc1.", "encoder.layer.{}.mlp.weights_in."),
    ("blocks.{}.mlp.fc2.", "encoder.layer.{}.mlp.weights_out."),
)


def _dino(*mlps: Rule) -> Layout:
    table = rules(
        ("cls_token", "embeddings.cls_token"),
        ("mask_token", "embeddings.mask_token"),
        ("reg_token", "embeddings.register_tokens"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
        ("blocks.{}.norm1.", "encoder.layer.{}.norm1."),
        ("blocks.{}.norm2.", "encoder.layer.{}.norm2."),
        ("blocks.{}.attn.proj.", "encoder.layer.{}.attention.output.dense."),
        ("blocks.{}.ls1.gamma", "encoder.layer.{}.layer_scale1.lambda1"),
        ("blocks.{}.ls2.gamma", "encoder.layer.{}.layer_scale2.lambda1"),
        ("norm.", "layernorm."),
    )
    qkv = fused("blocks.{}.attn.qkv.", "encoder.layer.{}.attention.attention.{}.", _PARTS)
    return Layout(
        "encoder.layer.0.layer_scale1.lambda1",
        "dinov2.",
        (*table, *mlps, qkv),
        class_position=True,
    )


def _dino_authors(*, gated: bool = False) -> Layout:
    """Returns the layout of the files of DINOv2's authors, whose blocks may be grouped."""
    mlps = [("fc1", "fc2"), ("w12", "w3")]
    table = dino_entries(reversed(mlps) if gated else mlps, ("", "{#}."))
    return Layout("mask_token", "", table, class_position=True)


_TOWER_BLOCKS = rules(
    ("blocks.{}.norm1.", "encoder.layers.{}.layer_norm1."),
    ("blocks.{}.norm2.", "encoder.layers.{}.layer_norm2."),
    ("blocks.{}.attn.proj.", "encoder.layers.{}.self_attn.out_proj."),
    ("blocks.{}.mlp.fc1.", "encoder.layers.{}.mlp.fc1."),
    ("blocks.{}.mlp.fc2.", "encoder.layers.{}.mlp.fc2."),
    ("norm.", "post_layernorm."),
)
_TOWER = (
    *rules(
        ("patch_embed.proj.", "embeddings.patch_embedding."),
        ("pos_embed", "embeddings.position_embedding.weight", "rows"),
    ),
    *_TOWER_BLOCKS,
    fused("blocks.{}.attn.qkv.", "encoder.layers.{}.self_attn.{}.", ("q_proj", "k_proj", "v_proj")),
)
_TEXT = r"text_model\.|text_projection|logit_scale|logit_bias|(embeddings\.)?position_ids"
_PROJECTION = {"head.bias": "head.weight"}
_CLIP = Layout(
    "pre_layrnorm.weight",
    "vision_model.",
    (
        *rules(("cls_token", "embeddings.class_embedding", "token")),
        *rules(("norm_pre.", "pre_layrnorm.")),
        *_TOWER,
    ),
    rules(("head.weight", "visual_projection.weight")),
    ignored=_TEXT,
    zeros=_PROJECTION,
)
_SIGLIP = Layout(
    "head.probe",
    "vision_model.",
    (
        *rules(
            ("attn_pool.latent", "head.probe"),
            ("attn_pool.proj.", "head.attention.out_proj."),
            ("attn_pool.norm.", "head.layernorm."),
            ("attn_pool.mlp.fc1.", "head.mlp.fc1."),
            ("attn_pool.mlp.fc2.", "head.mlp.fc2."),
        ),
        *(
            Rule(
                (f"attn_pool.q.{leaf}", f"attn_pool.kv.{leaf}"),
                (f"head.attention.in_proj_{leaf}",),
                shares=(1, 2),
            )
            for leaf in ("weight", "bias")
        ),
        *_TOWER,
    ),
    ignored=_TEXT,
)
_OPENAI = Layout(
    "ln_pre.weight",
    "visual.",
    rules(
        ("cls_token", "class_embedding", "token"),
        ("pos_embed", "positional_embedding", "rows"),
        ("patch_embed.proj.", "conv1."),
        ("norm_pre.", "ln_pre."),
        ("blocks.{}.norm1.", "transformer.resblocks.{}.ln_1."),
        ("blocks.{}.norm2.", "transformer.resblocks.{}.ln_2."),
        ("blocks.{}.attn.qkv.weight", "transformer.resblocks.{}.attn.in_proj_weight"),
        ("blocks.{}.attn.qkv.bias", "transformer.resblocks.{}.attn.in_proj_bias"),
        ("blocks.{}.attn.proj.", "transformer.resblocks.{}.attn.out_proj."),
        ("blocks.{}.mlp.fc1.", "transformer.resblocks.{}.mlp.c_fc."),
        ("blocks.{}.mlp.fc2.", "transformer.resblocks.{}.mlp.c_proj."),
        ("norm.", "ln_post."),
        ("head.weight", "proj", "transposed"),
    ),
    ignored=r"transformer\.|token_embedding\.|positional_embedding|ln_final\.|text_projection|text\."
    r"|logit_scale|logit_bias|attn_mask|input_resolution|context_length|vocab_size",
    zeros=_PROJECTION,
    always=True,
)
_BLOCK = "encoder.stages.{}.layers.{}."


def _convnext(inner: str, marker: str) -> Layout:
    table = rules(
        ("stem.0.", "embeddings.patch_embeddings."),
        ("stem.1.", "embeddings.layernorm."),
        ("stages.{}.downsample.0.", "encoder.stages.{}.downsampling_layer.0."),
        ("stages.{}.downsample.1.", "encoder.stages.{}.downsampling_layer.1."),
        ("stages.{}.blocks.{}.conv_dw.", f"{_BLOCK}dwconv."),
        ("stages.{}.blocks.{}.norm.", f"{_BLOCK}layernorm."),
        ("stages.{}.blocks.{}.mlp.fc1.weight", f"{_BLOCK}pwconv1.weight", "matrix"),
        ("stages.{}.blocks.{}.mlp.fc1.bias", f"{_BLOCK}pwconv1.bias"),
        ("stages.{}.blocks.{}.mlp.fc2.weight", f"{_BLOCK}pwconv2.weight", "matrix"),
        ("stages.{}.blocks.{}.mlp.fc2.bias", f"{_BLOCK}pwconv2.bias"),
        ("stages.{}.blocks.{}.gamma", f"{_BLOCK}layer_scale_parameter"),
        ("stages.{}.blocks.{}.mlp.grn.", f"{_BLOCK}grn.", "flat"),
        ("head.norm.", "layernorm."),
    )
    return Layout(
        f"encoder.stages.0.layers.0.{marker}", inner, table, rules(("head.fc.", "classifier."))
    )


def _normed(*rows: tuple[str, str, str]) -> tuple[Rule, ...]:
    """Builds rules from rows (native convolution, native norm, foreign module with both)."""
    return rules(
        *((f"{conv}.", f"{foreign}.convolution.") for conv, _, foreign in rows),
        *((f"{norm}.", f"{foreign}.normalization.") for _, norm, foreign in rows),
    )


def _regnet() -> Layout:
    block = "s{+}.b{+}."
    layers = {f"conv{i + 1}": f"layer.{index}" for i, index in enumerate((0, 1, 3))}
    rows = {f"{block}{module}": _BLOCK + layer for module, layer in layers.items()}
    rows |= {"stem": "embedder.embedder", f"{block}downsample": f"{_BLOCK}shortcut"}
    table = (
        *_normed(*((f"{module}.conv", f"{module}.bn", layer) for module, layer in rows.items())),
        *rules(
            (f"{block}se.fc1.", f"{_BLOCK}layer.2.attention.0."),
            (f"{block}se.fc2.", f"{_BLOCK}layer.2.attention.2."),
        ),
    )
    marker = "encoder.stages.0.layers.0.layer.2.attention.0.weight"
    return Layout(marker, "regnet.", table, rules(("head.fc.", "classifier.1.")))


_RESNET = Layout(
    "embedder.embedder.convolution.weight",
    "resnet.",
    _normed(
        ("conv1", "bn1", "embedder.embedder"),
        ("layer{+}.{}.conv{+}", "layer{+}.{}.bn{+}", _BLOCK + "layer.{}"),
        ("layer{+}.{}.downsample.0", "layer{+}.{}.downsample.1", f"{_BLOCK}shortcut"),
    ),
    rules(("fc.", "classifier.1.")),
)
_MOBILENET = Layout(
    "conv_stem.first_conv.convolution.weight",
    "mobilenet_v2.",
    _normed(
        ("features.0.0", "features.0.1", "conv_stem.first_conv"),
        ("features.1.conv.0.0", "features.1.conv.0.1", "conv_stem.conv_3x3"),
        ("features.1.conv.1", "features.1.conv.2", "conv_stem.reduce_1x1"),
        ("features.{++}.conv.0.0", "features.{++}.conv.0.1", "layer.{}.expand_1x1"),
        ("features.{++}.conv.1.0", "features.{++}.conv.1.1", "layer.{}.conv_3x3"),
        ("features.{++}.conv.2", "features.{++}.conv.3", "layer.{}.reduce_1x1"),
        ("features.18.0", "features.18.1", "conv_1x1"),
    ),
    rules(("classifier.1.", "classifier.")),
)
_DEIT = Layout(
    "embeddings.distillation_token",
    "deit.",
    _VIT,
    rules(("head.", "cls_classifier."), ("head_dist.", "distillation_classifier.")),
    ignored=_IGNORED,
)
_PLAIN = Layout(
    "encoder.layer.0.layernorm_before.weight", "vit.", _VIT, _CLASSIFIER, ignored=_IGNORED
)
_DINO, _GATED_DINO = _dino(*_MLP, *_GATED_MLP), _dino(*_GATED_MLP)
_FIRST = _convnext("convnext.", "layer_scale_parameter")
_SECOND = _convnext("convnextv2.", "grn.weight")
# In the order of the search: DINOv3 contains the marker of DINOv2, RegNets that of ResNets.
ALL = (
    *(
        layout
        for family in networks.FAMILIES
        for layouts in family.layouts.values()
        for layout in layouts
    ),
    *(_DEIT, _PLAIN, _DINO, _dino_authors(), _CLIP, _SIGLIP, _OPENAI),
    *(_FIRST, _SECOND, _regnet(), _RESNET, _MOBILENET),
)
# Classifier entries of transformers models whose classifier reads more than the embedding, such
# as DINOv2 and the vision towers.
OTHER_CLASSIFIER = ("classifier.weight", "classifier.bias")
NAMES = tuple(
    dict.fromkeys(
        (
            *("transformers", "openai", "dinov2"),
            *(library for family in networks.FAMILIES for library in family.layouts),
        )
    )
)


def find(name: str, library: str) -> Layout | None:
    """Returns the layout of a network in another library; None if the library lacks the network.

    Args:
      name: name of the network.
      library: one of NAMES.
    """
    network = networks.factory(name)(num_classes=1)
    if family := networks.family_of(name):
        layouts = family.layouts.get(library, ())
        return next((layout for layout in layouts if layout.fits(network)), None)
    if library == "openai":
        return _OPENAI if getattr(network, "norm_first", False) else None
    if library == "dinov2":
        is_dino = getattr(network, "scale", 0) and network.pool == "token"
        return _dino_authors(gated=network.gated) if is_dino else None
    if library != "transformers":
        return None
    match network:
        case vit.VisionTransformer():
            return _transformer(network)
        case convnext.ConvNeXt():
            return _SECOND if network.second else _FIRST
        case regnet.RegNetY():
            return _regnet()
        case resnet.ResNet():
            return _RESNET
        case mobilenet.MobileNetV2():
            return _MOBILENET if network.torchvision else None
    return None


def _transformer(network: vit.VisionTransformer) -> Layout | None:
    if network.pool == "attention":
        return _SIGLIP
    if network.norm_first:
        return _CLIP
    if network.pool == "mean" or (network.patch_positions_only and not network.registers):
        return None
    if network.scale:
        return _GATED_DINO if network.gated else _DINO
    return _DEIT if network.distilled else _PLAIN
