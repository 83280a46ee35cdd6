"""The folder of a run: its lock, metrics files, model card, provenance and traces."""
