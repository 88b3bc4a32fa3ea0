"""Voters; importing this package registers those that come with the plugin."""
