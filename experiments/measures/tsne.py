"""t-SNE of the embeddings of test images."""

import numpy as np

from experiments.measures.outputs import RunOutputs
from experiments.measures.thumbnails import thumbnails
from rrd_jax import errors
from rrd_jax.evaluation import rows

# Maximum number of images; more do not make the plot clearer.
_MAX_IMAGES = 800


def compute(outputs: RunOutputs) -> dict[str, np.ndarray | float]:
    """Computes t-SNE of the embeddings of student and teacher.

    Axes and distances between clusters have little meaning.

    Returns:
      total: number of test images.
      sampled: number n of sampled test images, at most 800.
      images: [n], indices of the sampled images.
      labels: [n].
      class_names: [C], text.
      thumbnails: [n, h, w, channels] uint8, with at most 32 pixels per side.
      student, teacher: [n, 2] float32, coordinates; absent for a network without embeddings.
      student_prediction, teacher_prediction: [n]; the teacher's only if the classes are the same.

    Raises:
      InputError: the student returns no embedding, or there are fewer than three images.
    """
    if not outputs.student.embedding.shape[1]:
        raise errors.InputError(
            "t-SNE needs embeddings, but the student returns no embedding; omit this measure"
        )
    if len(outputs) < 3:
        raise errors.InputError(
            f"the test split has {len(outputs)} images, but t-SNE needs at least 3; use more images"
        )
    images = rows.subset(len(outputs), _MAX_IMAGES)
    values: dict[str, np.ndarray | float] = {
        "sampled": len(images),
        "total": len(outputs),
        "images": images.astype(np.int32),
        "labels": outputs.labels[images],
        "class_names": np.array(outputs.class_names),
        "thumbnails": thumbnails(outputs.images[images]),
    }
    for role, network in outputs.networks:
        if network.embedding.shape[1]:
            values[role] = _plane(network.embedding[images].astype(np.float64))
    for role, network in outputs.classifiers:
        values[f"{role}_prediction"] = np.argmax(network.logits[images], axis=1).astype(np.int32)
    return values


def _plane(embeddings: np.ndarray) -> np.ndarray:
    import threadpoolctl
    from sklearn.manifold import TSNE

    # PCA needs variance, which the embeddings of a collapsed network lack.
    has_axes = min(embeddings.shape) >= 2 and np.ptp(embeddings, axis=0).max() > 0
    projection = TSNE(
        perplexity=min(30.0, (len(embeddings) - 1) / 3),
        init="pca" if has_axes else "random",
        random_state=0,
    )
    # t-SNE synchronizes its threads in many short steps, which is slow on a busy machine.
    with threadpoolctl.threadpool_limits(1):
        return projection.fit_transform(embeddings).astype(np.float32)
