"""A tf.data pipeline with fused decoding and cropping; run by experiments.data_benchmark."""

import json
import os
import pathlib
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
import timing


def _write_records(jpegs: pathlib.Path, path: pathlib.Path) -> None:
    part = path.with_suffix(".part")
    with tf.io.TFRecordWriter(str(part)) as writer:
        for jpeg in sorted(jpegs.glob("*/*.jpg")):
            image = tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg.read_bytes()]))
            label = tf.train.Feature(int64_list=tf.train.Int64List(value=[0]))
            features = tf.train.Features(feature={"image": image, "label": label})
            writer.write(tf.train.Example(features=features).SerializeToString())
    part.replace(path)


def _pipeline(path: pathlib.Path, batch_size: int, size: int, cores: int) -> tf.data.Dataset:
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    def load(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        example = tf.io.parse_single_example(record, features)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(example["image"]),
            tf.zeros([1, 0, 4]),
            min_object_covered=0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        image = tf.image.decode_and_crop_jpeg(example["image"], window, channels=3)
        image = tf.image.random_flip_left_right(tf.image.resize(image, [size, size]))
        return tf.cast(tf.round(image), tf.uint8), example["label"]

    options = tf.data.Options()
    options.deterministic = False
    options.threading.private_threadpool_size = cores
    options.threading.max_intra_op_parallelism = 1
    records = tf.data.TFRecordDataset(str(path)).repeat().shuffle(256)
    images = records.map(load, num_parallel_calls=cores)
    return images.batch(batch_size, drop_remainder=True).prefetch(2).with_options(options)


def _main() -> None:
    task = json.loads(sys.argv[1])
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(task["cores"])
    path = pathlib.Path(task["folder"], "train.tfrecord")
    if not path.exists():
        _write_records(pathlib.Path(task["folder"], "jpeg", "train"), path)
    batches = iter(_pipeline(path, task["batch_size"], task["size"], task["cores"]))
    versions = {"tensorflow": tf.__version__}
    images, _ = timing.report(lambda: next(batches), task, versions)
    assert images.shape[1:] == (task["size"], task["size"], 3)
    assert images.dtype == tf.uint8


if __name__ == "__main__":
    _main()
