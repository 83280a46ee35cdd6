"""Data sets by the way that they are stored: TFDS, Hugging Face, a user's own objects."""
