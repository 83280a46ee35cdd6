r"""Images without labels: DINOv3's ViT-B/16 to ConvNeXt-T, with relations of images and of patches.

    python -m rrd_jax.main --config=configs/dinov3_to_convnext.py \
      --config.data.manual_dir=FOLDER --config.teacher.checkpoint=FILE --workdir=runs/dinov3

FOLDER is searched recursively for images. FILE is the authors' file, timm's file of
vit_base_patch16_dinov3, or a Hugging Face folder (hf:FOLDER). The recipe is the default method of
lightly-train 0.18: relations to a queue and between the patches of an image, both at temperature
0.07; AdamW with rate 5e-4 sqrt(batch / 1536) and weight decay 0.04; crops of at least 0.14 of the
image, colors, and mixup of all images, which the teacher sees as well. lightly-train has 100 epochs
of batch 128, and advises up to 3 000 for few images.

For other relations, such as to a memory of patches, add rrd: options of configs/dense.py.
configs/dinov3_to_convnext.py:smoke trains small networks of the same families on drawings.
"""

from rrd_jax.config import (
    finish_without_labels,
    image_side,
    limit,
    take_words,
    use_drawings,
    without_labels,
)


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    words, rest = take_words(argument, "smoke")
    is_smoke = "smoke" in words
    config = without_labels()
    config.eval.patches = True
    config.data.crop_area = 0.14
    config.data.jitter, config.data.jitter_probability = (0.4, 0.4, 0.2, 0.1), 0.8
    config.data.grey = 0.2
    config.data.mix, config.data.mix_alpha = "mixup", 1.0
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.04
    config.optimizer.warmup_epochs = 10.0
    config.optimizer.clip_norm = 1.0
    config.train.epochs = 100
    config.train.batch_size = 128
    config.optimizer.learning_rate = 5e-4 * (config.train.batch_size / 1536) ** 0.5
    config.optimizer.final_learning_rate = 1e-3 * config.optimizer.learning_rate
    pair = "vit_base_patch16_dinov3-convnext_tiny"
    if is_smoke:
        use_drawings(config, smoke=True)
        pair = "vit_tiny_patch16_dinov3_qkvb-convnext_atto"
    config = finish_without_labels(config, "dinov3_to_convnext", rest, pair=pair)
    if config.method == "rrd":
        config.objectives.rrd.preset = "lightly"
    if is_smoke:
        config.name += "-smoke"
        config.data.image_size = image_side(config, smallest=48)
        limit(config, queue_size=128)
    return config
