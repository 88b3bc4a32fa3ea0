"""Folders that note what they are made of."""

import pytest

from unirain_plugin.errors import DataError
from unirain_plugin.support.files import claim_folder


@pytest.mark.parametrize(
    ("found", "accepted"),
    [
        ({"list": "a", "ends": "b"}, True),
        ({"list": "a"}, True),  # of an earlier version
        ({"list": "a", "ends": "c"}, False),
        ({"ends": "b"}, False),
        ({"list": "a", "ends": "b", "more": "c"}, False),
        ({}, False),
    ],
)
def test_only_a_key_that_was_added_since_may_be_missing(tmp_path, found, accepted):
    claim_folder(str(tmp_path), found, "new")
    if accepted:
        claim_folder(str(tmp_path), {"list": "a", "ends": "b"}, "of others", added=["ends"])
        return
    with pytest.raises(DataError, match="of others"):
        claim_folder(str(tmp_path), {"list": "a", "ends": "b"}, "of others", added=["ends"])
