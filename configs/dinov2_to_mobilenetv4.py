r"""ImageNet: DINOv2, which has learnt without labels, to MobileNetV4, by DeiT's recipe.

    python -m rrd_jax.main --config=configs/dinov2_to_mobilenetv4.py \
      --config.teacher.checkpoint=dinov2_vitb14_reg4_pretrain.pth

The teacher is its authors' file, timm's of vit_base_patch14_reg4_dinov2, or a Hugging Face folder
(hf:FOLDER); where such a folder asks for 518 pixels, --config.teacher.image_size=224 is a fifth of
the work. It has no classifier: the student learns its relations, beside the labels. With
--config.teacher.probe=True and behind the colon rrd+kd, one is trained on its embeddings first.

Own images, in a folder for each class: configs/dinov2_to_mobilenetv4.py:folder, with
--config.data.manual_dir=ROOT as in configs/image_folder.py.
"""

from rrd_jax.config import deit, finish, smooth_labels


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    config = deit()
    name = "dinov2_to_mobilenetv4"
    pair = "vit_base_patch14_reg4_dinov2-mobilenetv4_conv_medium"
    config = finish(config, name, argument, pair=pair, default="rrd")
    smooth_labels(config, 0.1)
    return config
