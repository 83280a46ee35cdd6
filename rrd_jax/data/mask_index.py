"""The class index of mask pixels that belong to no class."""

IGNORED = 255
