r"""ImageNet: ConvNeXt-B to EfficientNet-B0, with DeiT's recipe.

    python -m rrd_jax.main --config=configs/convnext_to_efficientnet.py \
      --config.teacher.checkpoint=convnext_base.safetensors

The teacher is a file of convnext_base from timm or torchvision, or a Hugging Face folder
(hf:FOLDER).

For your images, in one folder per class, use configs/convnext_to_efficientnet.py:folder with
--config.data.manual_dir=ROOT, as in configs/image_folder.py, and a teacher for these classes.
"""

from rrd_jax.config import deit, finish, smooth_labels


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = deit()
    config.student.drop_path = 0.2
    name, pair = "convnext_to_efficientnet", "convnext_base-efficientnet_b0"
    config = finish(config, name, argument, pair=pair, default="rrd+kd")
    smooth_labels(config, 0.1)
    return config
