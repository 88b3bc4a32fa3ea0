"""The plugin is registered before any model test; helper modules beside the tests can be imported."""

import logging
import sys
from pathlib import Path

import pytest

import unirain_plugin

sys.path.insert(0, str(Path(__file__).parent))
unirain_plugin.register()


@pytest.fixture()
def warnings_of():
    """The texts of the toolbox's warnings, as they are logged."""

    texts = []

    class Collector(logging.Handler):
        def emit(self, record):
            texts.append(record.getMessage())

    collector = Collector(logging.WARNING)
    logger = logging.getLogger("basicsr")
    logger.addHandler(collector)
    yield texts
    logger.removeHandler(collector)
