"""Runs of the toolbox's training and testing, with the remedies that make them exact to resume."""
