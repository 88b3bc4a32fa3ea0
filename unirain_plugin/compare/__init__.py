"""Scores, tables and figures. Stands on top: nothing imports it but the commands."""
