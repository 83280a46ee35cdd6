r"""ImageNet: DINOv2 ViT-B/14, a self-supervised teacher, to MobileNetV4, with DeiT's recipe.

    python -m rrd_jax.main --config=configs/dinov2_to_mobilenetv4.py \
      --config.teacher.checkpoint=dinov2_vitb14_reg4_pretrain.pth

The teacher is the authors' file, timm's file of vit_base_patch14_reg4_dinov2, or a Hugging Face
folder (hf:FOLDER). If a folder specifies images of 518 pixels, --config.teacher.image_size=224
reduces the teacher's work to a fifth. The teacher has no classifier, so the student learns its
relations and the labels. With --config.teacher.probe=True and the method rrd+kd after the colon, a
classifier is first trained on the teacher's embeddings.

For your images, in one folder per class, use configs/dinov2_to_mobilenetv4.py:folder with
--config.data.manual_dir=ROOT, as in configs/image_folder.py.
"""

from rrd_jax.config import deit, finish, smooth_labels


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    config = deit()
    name = "dinov2_to_mobilenetv4"
    pair = "vit_base_patch14_reg4_dinov2-mobilenetv4_conv_medium"
    config = finish(config, name, argument, pair=pair, default="rrd")
    smooth_labels(config, 0.1)
    return config
