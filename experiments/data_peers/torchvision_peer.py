"""A DataLoader with torchvision transforms; run by experiments.data_benchmark."""

import json
import os
import sys

import PIL
import timing
import torch
import torchvision
from torchvision.transforms import v2


def _load_tensor(path: str) -> torch.Tensor:
    return torchvision.io.decode_jpeg(torchvision.io.read_file(path))


def _main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    crop = [v2.RandomResizedCrop(task["size"], antialias=True), v2.RandomHorizontalFlip()]
    tensor = task["variant"] == "tensor"
    dataset = torchvision.datasets.ImageFolder(
        os.path.join(task["folder"], "jpeg", "train"),
        transform=v2.Compose(crop if tensor else [*crop, v2.PILToTensor()]),
        loader=_load_tensor if tensor else torchvision.datasets.folder.default_loader,
    )
    loader = torch.utils.data.DataLoader(
        # One long data set avoids the start of new workers after each pass.
        torch.utils.data.ConcatDataset([dataset] * task["passes"]),
        task["batch_size"],
        shuffle=True,
        num_workers=0 if task["cores"] == 1 else task["cores"],
        drop_last=True,
    )
    batches = iter(loader)
    versions = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "Pillow": PIL.__version__,
    }
    images, _ = timing.report(lambda: next(batches), task, versions)
    assert images.shape[1:] == (3, task["size"], task["size"])
    assert images.dtype == torch.uint8


if __name__ == "__main__":
    _main()
