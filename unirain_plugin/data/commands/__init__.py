"""The data commands: ``main(argv)`` of each is reached through ``python -m unirain_plugin`` and ``scripts/``."""
