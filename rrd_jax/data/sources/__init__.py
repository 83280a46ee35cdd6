"""Data sets by storage: TFDS, Hugging Face, and custom sources."""
