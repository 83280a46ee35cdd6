r"""Images without labels: a foundation model, DINOv2's ViT-S/14, teaches MobileNetV4.

    python -m rrd_jax.main \
      --config=configs/unlabelled.py:vit_small_patch14_dinov2-mobilenetv4_conv_small \
      --config.data.manual_dir=FOLDER --config.teacher.checkpoint=FILE --workdir=runs/unlabelled

FOLDER holds images, wherever they lie in it; a tenth is held out by their names. FILE is the
authors' dinov2_vits14_pretrain.pth, timm's, or a Hugging Face folder (hf:FOLDER); it stays as it
is, and sees images of 224 pixels. 200 epochs of batch 256 with SEED's optimizer (arXiv
2101.04731): SGD, 0.03, cosine. --config.data.max_images=1000 for a try.

configs/unlabelled.py:resnet8x4-resnet8,smoke is a short one, on 400 of scikit-learn's handwritten
digits: the teacher is trained there first, with their labels, which the student never sees.
"""

from rrd_jax.config import finish, imagenet, leave_out_labels, limit, side_for


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/argument.py."""
    words = argument.split(",")
    is_smoke = "smoke" in words
    config = imagenet()
    config.data.name = "image_folder"
    config.data.use_labels = False
    config.data.test_split = "test"
    config.eval.proof = True
    config.teacher.image_size = 224  # DINOv2's files ask for 518, five times the work
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine"
    config.train.epochs = 200
    config.train.save_every = 0
    pair = "vit_small_patch14_dinov2-mobilenetv4_conv_small"
    if is_smoke:
        pair = "resnet8x4-resnet8"
        _take_digits(config)
    rest = ",".join(word for word in words if word != "smoke")
    config = finish(config, "unlabelled", rest, pair=pair, default="rrd")
    leave_out_labels(config)
    if is_smoke:
        config.name += "-smoke"
        config.data.image_size = side_for(config, least=8)
        limit(config, queue_size=512, negatives=512)
    return config


def _take_digits(config):
    """Few real images, and a teacher that learns them with their labels."""
    config.data.name = "digits"
    config.data.train_split = "train[:400]"
    config.data.augment = "crop_flip"
    config.data.pad, config.data.flip = 1, False  # a mirrored digit is none
    config.data.mean, config.data.std = (0.305,), (0.376,)
    config.teacher.image_size = None
    config.teacher.use_labels = True
    config.teacher.epochs = 5
    config.teacher.learning_rate = 0.05
    config.train.epochs = 5
    config.train.batch_size = 50
