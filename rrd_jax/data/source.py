"""stub"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
    name: str
    dir: str = ""
    manual_dir: str = ""
    train_split: str = "train"
    test_split: str = "test"
    image_size: int = 32
    resize: int = 256
    augment: str = "crop_flip"
    feed: str = "auto"
    workers: int = 0
    mock_examples: int = 0
