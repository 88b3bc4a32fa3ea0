"""Dataset distillation by retrieval and votes (paper §2): find real rain for each candidate, judge, keep the best.

Captioners, embedders, text encoders and voters are chosen in YAML by ``type`` from the registries in
:mod:`unirain_plugin.distill.registry`; register your own there and name your module under ``imports``.
"""
