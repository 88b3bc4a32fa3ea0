"""The index that knows its draw."""

import pickle

import pytest

from unirain_plugin.data.draws import SampleIndex


def test_it_is_an_int_that_survives_pickling():
    index = pickle.loads(pickle.dumps(SampleIndex(7, draw=12)))
    assert index == 7 and [*range(10)][index] == 7
    assert type(index) is SampleIndex and index.draw == 12


def test_negative_draw_is_refused():
    with pytest.raises(ValueError, match="draw must be 0 or more, found -1"):
        SampleIndex(0, -1)
