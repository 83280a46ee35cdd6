"""Small archives in the published layouts of well-known data sets."""

import io
import tarfile
import zipfile

import cv2
import numpy as np
from PIL import Image

CIFAR10_NAMES = [f"kind_{i}" for i in range(10)]
STL10_NAMES = [f"sort_{i}" for i in range(10)]
# Deliberately not in alphabetical order.
SYNSETS = ["n01443537", "n01440764", "n02123045"]
_RNG = np.random.default_rng(0)


def cifar10(folder, per_file=4):
    """Writes the archive of CIFAR-10; returns {id: (pixels, label)}."""
    files, expected = {"batches.meta.txt": _lines(CIFAR10_NAMES)}, {}
    for split, names in (("train", [f"data_batch_{i}" for i in range(1, 6)]), ("test", ["test"])):
        for name in names:
            images, labels = _pixels(per_file, 32), _RNG.integers(0, 10, per_file)
            for image, label in zip(images, labels, strict=True):
                number = sum(key.startswith(split) for key in expected)
                expected[f"{split}_{number:05d}"] = (image, label)
            planes = images.transpose(0, 3, 1, 2).reshape(per_file, -1)
            records = np.concatenate([labels[:, None].astype(np.uint8), planes], 1)
            files[f"{'test_batch' if name == 'test' else name}.bin"] = records.tobytes()
    _tar(folder / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", files)
    return expected


def cifar100(folder, sizes=(30, 10)):
    """Writes the archive of CIFAR-100; returns {id: (pixels, label, coarse label)}."""
    files, expected = {}, {}
    files["fine_label_names.txt"] = _lines(f"fine_{i:02d}" for i in range(100))
    files["coarse_label_names.txt"] = _lines(f"coarse_{i:02d}" for i in range(20))
    for split, size in zip(("train", "test"), sizes, strict=True):
        images = _pixels(size, 32)
        fine, coarse = _RNG.integers(0, 100, size), _RNG.integers(0, 20, size)
        for i in range(size):
            expected[f"{split}_{i:05d}"] = (images[i], fine[i], coarse[i])
        planes = images.transpose(0, 3, 1, 2).reshape(size, -1)
        labels = np.stack([coarse, fine], 1).astype(np.uint8)
        files[f"{split}.bin"] = np.concatenate([labels, planes], 1).tobytes()
    _tar(folder / "cifar-100-binary.tar.gz", "cifar-100-binary", files)
    return expected


def stl10(folder):
    """Writes the archive of STL-10; returns {split: (images, labels from 0)}, -1 if unlabelled."""
    files, expected = {"class_names.txt": _lines(STL10_NAMES)}, {}
    for split, stem, size in (("train", "train", 6), ("test", "test", 5), ("unlabelled", "", 4)):
        images = _pixels(size, 96)
        files[f"{stem or 'unlabeled'}_X.bin"] = images.transpose(0, 3, 2, 1).tobytes()
        labels = _RNG.integers(0, 10, size)
        if stem:
            files[f"{stem}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
        expected[split] = (images, labels if stem else np.full(size, -1))
    _tar(folder / "stl10_binary.tar.gz", "stl10_binary", files)
    return expected


def imagenet(folder, per_synset=5, validation=6):
    """Writes both archives of ImageNet, with grayscale and CMYK files among the JPEGs.

    Returns:
        {split: {file name: bytes}}.
    """
    expected = {"train": {}, "validation": {}}
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as outer:
        for synset in SYNSETS:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for i in range(per_synset):
                    mode = {1: "L", 2: "CMYK"}.get(i, "RGB")
                    name, content = f"{synset}_{i}.JPEG", jpeg(mode=mode)
                    expected["train"][name] = content
                    _add(tar, name, content)
            _add(outer, f"{synset}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        # The files of the published archive are not sorted either.
        for i in reversed(range(1, validation + 1)):
            name, content = f"ILSVRC2012_val_{i:08d}.JPEG", jpeg()
            expected["validation"][name] = content
            _add(tar, name, content)
    return expected


def tiny_imagenet(folder, per_synset=3):
    """Writes the archive of Tiny ImageNet; returns {split: {file name: (bytes, synset)}}."""
    expected = {"train": {}, "validation": {}}
    root = "tiny-imagenet-200"
    with zipfile.ZipFile(folder / "tiny-imagenet-200.zip", "w") as file:
        synsets = [*SYNSETS, *(f"n{i:08d}" for i in range(197))]
        file.writestr(f"{root}/wnids.txt", _lines(synsets))
        file.writestr(f"{root}/words.txt", _lines(f"{s}\tsomething" for s in synsets))
        lines = []
        for synset in SYNSETS:
            file.writestr(f"{root}/train/{synset}/{synset}_boxes.txt", "")
            for i in range(per_synset):
                name, content = f"{synset}_{i}.JPEG", jpeg((64, 64), mode="L" if i == 1 else "RGB")
                file.writestr(f"{root}/train/{synset}/images/{name}", content)
                expected["train"][name] = (content, synset)
        for i in range(5):
            name, content, synset = f"val_{i}.JPEG", jpeg((64, 64)), SYNSETS[i % 2]
            file.writestr(f"{root}/val/images/{name}", content)
            lines.append(f"{name}\t{synset}\t0\t0\t63\t63")
            expected["validation"][name] = (content, synset)
        file.writestr(f"{root}/val/val_annotations.txt", _lines(lines))
        file.writestr(f"{root}/test/images/test_0.JPEG", jpeg((64, 64)))
    return expected


def jpeg(size=(40, 30), mode="RGB"):
    """Returns the bytes of a random JPEG."""
    file = io.BytesIO()
    small = Image.fromarray(_RNG.integers(0, 256, (4, 4, 3), np.uint8))
    small.resize(size).convert(mode).save(file, "JPEG")
    return file.getvalue()


def pixels(encoded):
    """Returns the pixels of an encoded RGB image: uint8 [H, W, 3]."""
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(encoded, np.uint8), 1), cv2.COLOR_BGR2RGB)


def _pixels(number, size):
    return _RNG.integers(0, 256, (number, size, size, 3), np.uint8)


def _lines(words):
    return "".join(f"{word}\n" for word in words).encode()


def _tar(path, root, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            _add(tar, f"{root}/{name}", content)


def _add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
