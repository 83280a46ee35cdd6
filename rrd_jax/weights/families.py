"""Networks of other libraries, told by the names of their entries, and those that can be read."""

import re
from collections.abc import Iterable

_AT = r"(^|\.)"  # the beginning of a part of a name
# The first line fits whose expressions are all found in the names.
_FAMILIES: list[tuple[str, tuple[str, ...]]] = [
    ("a language model's", (r"(lm_head|embed_tokens|wte|word_embeddings)\.",)),
    ("CLIP's", (r"(visual|vision_model|text_model|logit_scale)(\.|$)",)),
    ("Hugging Face's ResNet's", (r"embedder\.embedder\.convolution\.",)),
    ("Hugging Face's MobileNetV2's", (r"conv_stem\.first_conv\.",)),
    ("Hugging Face's vision transformer's", (r"embeddings\.patch_embeddings\.",)),
    ("torchvision's vision transformer's", (r"layers\.encoder_layer_\d+\.",)),
    ("a Swin transformer's", (r"relative_position_bias_table$",)),
    ("timm's vision transformer's", (r"patch_embed\.proj\.", r"blocks\.\d+\.attn\.")),
    ("timm's MobileNetV2's or EfficientNet's", (_AT + r"conv_stem\.weight",)),
    ("timm's VGG's", (r"pre_logits\.fc1\.",)),
    ("timm's ResNetV2's, ConvNeXt's or RegNet's", (_AT + r"stages\.\d+\.blocks\.\d+\.",)),
    ("DenseNet's", (r"denseblock\d+\.",)),
    ("SqueezeNet's", (r"\.squeeze\.weight", r"\.expand1x1\.")),
    ("Inception's or GoogLeNet's", (r"(Conv2d_1a_3x3|inception3a)\.",)),
    ("torchvision's ConvNeXt's", (r"features\.\d+\.\d+\.layer_scale",)),
    ("torchvision's EfficientNet's", (r"features\.\d+\.\d+\.block\.\d+\.fc1\.",)),
    ("torchvision's MobileNetV3's", (_AT + r"features\.\d+\.block\.\d+\.",)),
    ("torchvision's VGG's or AlexNet's", (_AT + r"features\.3\.weight", r"classifier\.6\.")),
    ("timm's ResNet's with a stem of three convolutions", (_AT + r"conv1\.6\.", r"layer1\.0\.")),
    ("a detector's or segmenter's", (_AT + r"(rpn|roi_heads|backbone\.fpn|decode_head)\.",)),
    ("a generator's or autoencoder's", (_AT + r"(decoder|generator|unet)\.",)),
]
# What is no image network: expressions of which one is found in names, none that is there too, what
# it is, and the way out.
_WRONG: list[tuple[str, str, str]] = [
    (
        r"lora_([AB]|down|up)\.|\.lora_[AB]$",
        "$^",
        "an adapter (LoRA), which changes other weights: add it to those that it was made for (in"
        " peft: merge_and_unload()), and save these",
    ),
    (
        _AT + r"(down_blocks|up_blocks|mid_block|conv_in|first_stage_model|diffusion_model)\.",
        "$^",
        "a part of a diffusion model, which makes images: it is no network here",
    ),
    (
        _AT + r"(text_model|token_embedding|text_projection|embeddings\.token_embedding)(\.|$)",
        _AT + r"(visual|vision_model|embeddings\.patch_embedding)(\.|$)",
        "a text tower, which sees no images: name the file of the whole model, or of its vision"
        " tower",
    ),
]
# Parts that wrappers put into names: torch.compile, DataParallel, FSDP, checkpointing.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


def wrong(names: Iterable[str]) -> str:
    """What names are of that is no image network, and the way out; "" for anything else."""
    text = "\n".join(names)
    for expression, absent, what in _WRONG:
        if re.search(expression, text, re.MULTILINE) and not re.search(absent, text, re.MULTILINE):
            return what
    return ""


def family(names: Iterable[str]) -> str:
    """Whose names these are, such as "timm's VGG's"; "" where that is not known."""
    text = "\n".join(names)
    for family_name, expressions in _FAMILIES:
        if all(re.search(expression, text, re.MULTILINE) for expression in expressions):
            return family_name
    return ""


def unwrapped(name: str) -> str:
    """The name of an entry without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
