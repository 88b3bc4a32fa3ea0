"""Dataset distillation by retrieval and votes (paper §2): find real rain for each candidate, judge, keep the best.

Its parts are chosen in YAML by ``type`` from the registries in :mod:`unirain_plugin.distill.registry`; register your
own there and name your module under ``imports``.
"""
