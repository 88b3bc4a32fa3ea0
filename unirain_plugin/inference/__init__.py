"""Restoration of pictures, folders and videos of any size with trained weights."""
