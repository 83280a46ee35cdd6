"""Embeddings of test images in the plane."""

import numpy as np

from experiments.measures import sampling
from experiments.measures.subject import Answers, Subject
from rrd_jax import errors
from rrd_jax.evaluation import rows

_MOST = 800  # images: with more, neither the eye nor a page gains


def of(subject: Subject) -> dict[str, np.ndarray | float]:
    """t-SNE of what student and teacher make of images before their classifiers.

    Distances between clusters mean little, and neither do axes: it shows which images lie together.

    Returns:
      sampled: how many of the `total` test images are shown, at most 800.
      images: [n] their indices; labels: [n]; class_names: [C] text.
      thumbnails: [n, h, w, channels] uint8, of at most 32 pixels.
      student: [n, 2] float32, and student_prediction: [n]; of the teacher likewise, the latter
      only if it has the same classes. A network that reports no embedding is not among them.

    Raises:
      InputError: the student reports no embedding, or there are fewer than three images.
    """
    if not subject.student.embedding.shape[1]:
        raise errors.InputError("the student reports no embedding, and t-SNE is of embeddings")
    if len(subject) < 3:
        raise errors.InputError(
            f"the test split has {len(subject)} images, but t-SNE needs three or more"
        )
    images = rows.places(len(subject), _MOST)
    values: dict[str, np.ndarray | float] = {
        "sampled": len(images),
        "total": len(subject),
        "images": images.astype(np.int32),
        "labels": subject.labels[images],
        "class_names": np.array(subject.class_names),
        "thumbnails": sampling.thumbnails(subject.images[images]),
    }
    for role, answers in subject.networks:
        if answers.embedding.shape[1]:
            values[role] = _plane(answers, images)
    for role, answers in subject.classifiers:
        values[f"{role}_prediction"] = np.argmax(answers.logits[images], axis=1).astype(np.int32)
    return values


def _plane(answers: Answers, images: np.ndarray) -> np.ndarray:
    import threadpoolctl
    from sklearn.manifold import TSNE

    rows = answers.embedding[images].astype(np.float64)
    # Directions of the largest variance, where there are some: a collapsed network has none.
    has_axes = min(rows.shape) >= 2 and np.ptp(rows, axis=0).max() > 0
    projection = TSNE(
        perplexity=min(30.0, (len(rows) - 1) / 3),
        init="pca" if has_axes else "random",
        random_state=0,
    )
    # Its threads wait for one another at each of many short steps: beside other jobs they crawl.
    with threadpoolctl.threadpool_limits(1):
        return projection.fit_transform(rows).astype(np.float32)
