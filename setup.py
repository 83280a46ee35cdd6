"""Builds the long description: README.md without links into the repository.

A package index shows the description without the files of the repository.
"""

import pathlib
import re

import setuptools

# The target of a link into this repository.
_RELATIVE = r"\((?!https://|#)[^)]*\)"
text = pathlib.Path("README.md").read_text(encoding="utf-8")
# A picture becomes its alternative text.
text = re.sub(rf"!\[([^\]]*)\]{_RELATIVE}", r"*\1.*", text)
text = re.sub(rf"(?<!!)\[([^\]]*)\]{_RELATIVE}", r"\1", text)

setuptools.setup(long_description=text, long_description_content_type="text/markdown")
