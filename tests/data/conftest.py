"""Every test of data leaves no LMDB open, none of mmengine's either."""

import pytest

from unirain_plugin.data import sources


@pytest.fixture(autouse=True)
def _close():
    yield
    sources.close_environments()
    sources._clients.clear()
