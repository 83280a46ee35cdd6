r"""Images without labels: a foundation model, DINOv2's ViT-S/14, teaches MobileNetV4.

    python -m rrd_jax.main \
      --config=configs/unlabelled.py:vit_small_patch14_dinov2-mobilenetv4_conv_small \
      --config.data.manual_dir=FOLDER --config.teacher.checkpoint=FILE --workdir=runs/unlabelled

FOLDER holds images, wherever they lie in it; a tenth is held out by their names. FILE is the
authors' dinov2_vits14_pretrain.pth, timm's, or a Hugging Face folder (hf:FOLDER); it stays as it
is, and sees images of 224 pixels (another teacher, those of its file or run). 200 epochs of batch
256 with SEED's optimizer (arXiv 2101.04731): SGD, 0.03, cosine. --config.data.max_images=1000 for
a try.

configs/unlabelled.py:digits is on scikit-learn's handwritten digits, in minutes on a CPU: the
teacher, resnet8x4, is trained there first, with their labels, which the student never sees; ten of
each class judge it. resnet8x4-resnet8,smoke is a shorter one, on 400 of them.
"""

from rrd_jax.config import finish, image_side, imagenet, leave_out_labels, limit, teachers


def get_config(argument: str = ""):
    """See the module's docstring; options as in rrd_jax/config/config_string.py."""
    words = argument.split(",")
    is_smoke = "smoke" in words
    config = imagenet()
    config.data.name = "image_folder"
    config.data.use_labels = False
    config.data.test_split = "test"
    config.eval.proof = True
    config.optimizer.learning_rate = 0.03
    config.optimizer.schedule = "cosine"
    config.train.epochs = 200
    config.train.save_every = 0
    pair = "vit_small_patch14_dinov2-mobilenetv4_conv_small"
    on_digits = is_smoke or "digits" in words
    if on_digits:
        pair = "resnet8x4-resnet8"
        _take_digits(config, is_smoke)
    rest = ",".join(word for word in words if word not in ("smoke", "digits"))
    config = finish(config, "unlabelled", rest, pair=pair, default="rrd")
    leave_out_labels(config)
    for _, teacher in teachers(config):
        if teacher.model.endswith("_dinov2"):
            teacher.image_size = 224  # its files ask for 518, five times the work
    if on_digits:
        config.name += "-smoke" if is_smoke else "-digits"
        config.data.image_size = image_side(config, smallest=8)
        most = 512 if is_smoke else 1024
        limit(config, queue_size=most, negatives=most)
    return config


def _take_digits(config, is_smoke):
    """Real images, of which smoke takes few, and a teacher that learns them with their labels."""
    config.data.name = "digits"
    config.data.augment = "crop_flip"
    config.data.pad, config.data.flip = 1, False  # a mirrored digit is none
    config.data.mean, config.data.std = (0.305,), (0.376,)
    config.teacher.use_labels = True
    config.teacher.learning_rate = 0.05
    config.train.batch_size = 50
    if is_smoke:
        config.data.train_split = "train[:400]"
        config.teacher.epochs = config.train.epochs = 5
        return
    config.teacher.epochs = 15
    config.train.epochs = 40
    config.eval.every = 10
    config.eval.labelled = "digits"
    config.eval.labelled_per_class = 10
