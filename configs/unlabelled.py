r"""Images without labels: a foundation model, DINOv2's ViT-S/14, to MobileNetV4.

    python -m rrd_jax.main \
      --config=configs/unlabelled.py:vit_small_patch14_dinov2-mobilenetv4_conv_small \
      --config.data.manual_dir=FOLDER --config.teacher.checkpoint=FILE --workdir=runs/unlabelled

FOLDER is searched recursively for images; a tenth of the images is held out, chosen by file name.
FILE is the authors' dinov2_vits14_pretrain.pth, timm's file, or a Hugging Face folder (hf:FOLDER).
The teacher is frozen, and its images have 224 pixels, or for other teachers the size in their file
or run. 200 epochs with batch size 256 and SEED's optimizer (arXiv 2101.04731): SGD, learning rate
0.03, cosine schedule. For a quick test, add --config.data.max_images=1000.

configs/unlabelled.py:digits uses scikit-learn's handwritten digits, and takes minutes on a CPU. The
teacher, resnet8x4, is first trained with labels; the student is trained without labels, and
evaluated with ten labelled images per class. resnet8x4-resnet8,smoke is a shorter variant with 400
images.
"""

from rrd_jax.config import finish_without_labels, image_side, limit, take_words, without_labels


def get_config(argument: str = ""):
    """Returns the config; rrd_jax/config/config_string.py documents the argument."""
    words, rest = take_words(argument, "smoke", "digits")
    is_smoke = "smoke" in words
    config = without_labels()
    config.eval.proof = True
    config.train.epochs = 200
    pair = "vit_small_patch14_dinov2-mobilenetv4_conv_small"
    on_digits = is_smoke or "digits" in words
    if on_digits:
        pair = "resnet8x4-resnet8"
        _use_digits(config, is_smoke)
    config = finish_without_labels(config, "unlabelled", rest, pair=pair)
    if on_digits:
        config.name += "-smoke" if is_smoke else "-digits"
        config.data.image_size = image_side(config, smallest=8)
        rows = 512 if is_smoke else 1024
        limit(config, queue_size=rows, negatives=rows)
    return config


def _use_digits(config, is_smoke):
    """Sets the digits as data, fewer for smoke tests, and a teacher that is trained with labels."""
    config.data.name = "digits"
    config.data.augment = "crop_flip"
    # A mirrored digit is not a digit.
    config.data.pad, config.data.flip = 1, False
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
