"""Run folders: lock, config, metrics, model card, provenance and traces."""
