"""What setup.cfg cannot say: on a package index a description has no files beside it."""

import pathlib
import re

import setuptools

_BESIDE = r"\((?!https://|#)[^)]*\)"  # the target of a link into this repository
text = pathlib.Path("README.md").read_text(encoding="utf-8")
text = re.sub(rf"!\[([^\]]*)\]{_BESIDE}", r"*\1.*", text)  # a picture: what it shows
text = re.sub(rf"(?<!!)\[([^\]]*)\]{_BESIDE}", r"\1", text)

setuptools.setup(long_description=text, long_description_content_type="text/markdown")
