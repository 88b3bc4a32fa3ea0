"""Measurements that back the project's claims: ``python -m unirain_plugin benchmark``."""
