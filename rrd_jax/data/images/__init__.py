"""Images on the host: decoding, converting, scaling and cropping."""
