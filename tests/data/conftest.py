"""Every test of data leaves no LMDB open."""

import pytest

from unirain_plugin.data.sources import close_environments


@pytest.fixture(autouse=True)
def _close():
    yield
    close_environments()
