r"""Images without labels: several teachers to one student, DINOv3 and SigLIP 2 to ViT-S/16.

    python -m rrd_jax.main --config=configs/agglomerate.py --config.data.manual_dir=FOLDER \
      '--config.teacher[0].checkpoint=DINOV3' '--config.teacher[1].checkpoint=SIGLIP2' \
      --workdir=runs/agglomerate

FOLDER is searched recursively for images. DINOV3 and SIGLIP2 are files of timm or Hugging Face
folders (hf:FOLDER) of vit_base_patch16_dinov3 and vit_base_patch16_siglip_256. Other teachers and
students: TEACHER+TEACHER-STUDENT after the colon, such as
vit_base_patch16_dinov3+vit_base_patch16_siglip_256-repvit_m1_1.

The recipe is UNIC's (arXiv 2408.05088), without its heads on inner blocks: a head of two layers for
each teacher and for its patches, targets with running statistics, half cosine and half smooth L1;
for each image, each teacher but the one with the largest loss is dropped with probability 0.5.
200 epochs of ImageNet, batch 512, AdamW with rate 3e-4 batch / 256, weight decay 0.03.

configs/agglomerate.py:smoke trains small networks on drawings.
"""

from rrd_jax.config import (
    finish_without_labels,
    image_side,
    take_words,
    use_drawings,
    without_labels,
)


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    words, rest = take_words(argument, "smoke")
    is_smoke = "smoke" in words
    config = without_labels()
    config.eval.proof = config.eval.patches = True
    config.train.epochs = 200
    config.train.batch_size = 512
    config.train.drop_teachers = 0.5
    config.student.drop_path = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.options = {"b2": 0.99}
    config.optimizer.learning_rate = 3e-4 * config.train.batch_size / 256
    config.optimizer.weight_decay = 0.03
    config.optimizer.warmup_epochs = 10.0
    pair = "vit_base_patch16_dinov3+vit_base_patch16_siglip_256-vit_small_patch16_224"
    if is_smoke:
        use_drawings(config, smoke=True)
        config.student.drop_path = 0.0
        pair = "resnet20+resnet8-resnet8"
    config = finish_without_labels(config, "agglomerate", rest, pair=pair, default="embed")
    if config.method == "embed":
        # UNIC averages the losses of images and of patches.
        config.objectives.embed.update(
            weight=0.5,
            over="both",
            distance="unic",
            weight_cosine=0.5,
            weight_smooth_l1=0.5,
            standardize="running",
            head="mlp",
            head_width=768,
        )
    if is_smoke:
        config.name += "-smoke"
        config.data.image_size = image_side(config, smallest=48)
    return config
