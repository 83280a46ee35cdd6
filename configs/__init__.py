"""Configs: common.py holds every default, the others are small deltas."""
