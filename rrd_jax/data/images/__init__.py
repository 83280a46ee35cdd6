"""Image processing on the host: decoding, conversion, scaling and cropping."""
