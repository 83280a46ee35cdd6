r"""ImageNet: a vision transformer, ViT-B/16, to ResNet-50, with DeiT's recipe.

    python -m rrd_jax.main --config=configs/vit_to_resnet.py \
      --config.teacher.checkpoint=vit_base_patch16_224.safetensors

The teacher is timm's file of that name, torchvision's vit_b_16 (vit_to_resnet.py:vit_b_16-resnet50)
or a Hugging Face folder (--config.teacher.checkpoint=hf:FOLDER). RRD compares only embeddings, so
the two networks need no matching layers.

For your images, in one folder per class, use configs/vit_to_resnet.py:folder with
--config.data.manual_dir=ROOT, as in configs/image_folder.py, and a teacher for these classes.
"""

from rrd_jax.config import deit, finish, smooth_labels


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = deit()
    name, pair = "vit_to_resnet", "vit_base_patch16_224-resnet50"
    config = finish(config, name, argument, pair=pair, default="rrd+kd")
    smooth_labels(config, 0.1)
    return config
