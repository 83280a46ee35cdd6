"""Augmentation of training images on the device: pure functions of a key and an image."""
