"""Trained weights as files for other programs."""
