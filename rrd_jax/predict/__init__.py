"""The prediction command.

`__main__` defines the flags, `writing` and `parquet` the output formats, `neighbours` the search
for similar images, and `neighbour_figure` a figure of its results.
"""
