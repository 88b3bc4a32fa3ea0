"""Restoration of images, folders and videos of any size with trained weights."""
