r"""Dense features without labels: a foundation model's patches, to a network for other tasks.

    python -m rrd_jax.main \
      --config=configs/dense.py:vit_small_patch14_dinov2-mobilenetv4_conv_small \
      --config.data.manual_dir=FOLDER --config.teacher.checkpoint=FILE --workdir=runs/dense \
      --config.eval.dense=MASKS

FOLDER is searched recursively for images, and FILE holds the teacher's weights, as for
configs/unlabelled.py, whose recipe this is. MASKS is a folder with images and masks, on which a
linear probe on frozen patches measures the mean IoU of student and teacher; without it, patches are
compared by nearest neighbors and CKA.

The method rrd compares images and patches, at temperatures of 0.07: among the objectives of
experiments/studies/dense.py, it reached the highest mean IoU on drawings. For images alone, set
objectives.rrd.over=images.

configs/dense.py:drawings uses generated drawings with exact masks, and takes minutes on a CPU. The
teacher, resnet20, is first trained with the labels of the drawings; the student is trained without
labels. resnet20-resnet8,smoke is a shorter variant with 200 images.
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
    words, rest = take_words(argument, "smoke", "drawings")
    is_smoke = "smoke" in words
    config = without_labels()
    config.eval.patches = True
    config.train.epochs = 120
    pair = "vit_small_patch14_dinov2-mobilenetv4_conv_small"
    on_drawings = is_smoke or "drawings" in words
    if on_drawings:
        pair = "resnet20-resnet8"
        use_drawings(config, smoke=is_smoke)
        config.eval.dense = "drawings"
        config.eval.every = 6
        config.eval.dense_images = 50 if is_smoke else 250
        if not is_smoke:
            config.teacher.epochs, config.train.epochs = 8, 12
    config = finish_without_labels(config, "dense", rest, pair=pair)
    if config.method == "rrd":
        config.objectives.rrd.over = "both"
        config.objectives.rrd.temperature_student = 0.07
        config.objectives.rrd.temperature_teacher = 0.07
    if on_drawings:
        config.name += "-smoke" if is_smoke else "-drawings"
        config.data.image_size = image_side(config, smallest=48)
        rows = 128 if is_smoke else 512
        limit(config, queue_size=rows, patch_queue_size=rows, negatives=rows)
    return config
