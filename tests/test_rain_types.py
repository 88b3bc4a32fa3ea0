"""Labels of rain types."""

import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.rain_types import RAIN_TYPES, describe, rain_type_ids


def test_the_papers_four():
    assert RAIN_TYPES == ("drs", "drd", "nrs", "nrd")
    assert rain_type_ids() == {"drs": 0, "drd": 1, "nrs": 2, "nrd": 3}
    assert describe("nrd") == "nighttime raindrops"
    assert rain_type_ids(["nrd", "drd"]) == {"nrd": 3, "drd": 1}
    assert rain_type_ids(["snow", "drs", "haze"]) == {"snow": 4, "drs": 0, "haze": 5}


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "empty"), (["drs", "drs"], "twice"), (["DRS"], "lower-case"), ([3], "3 is no rain-type name")],
)
def test_bad_lists(names, message):
    with pytest.raises(OptionError, match=message):
        rain_type_ids(names)
