"""Every field with its default and meaning, the methods, and what a config string says."""
