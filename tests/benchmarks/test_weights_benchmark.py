"""``benchmark weights``: every row is there, and the rain that is not the renderer's is rain."""

import re

import numpy as np
import pytest

from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.study.benchmarks import weights
from unirain_plugin.study.benchmarks.weights import smeared_noise, standard_error


def test_a_row_for_each_rain_with_its_gain(capsys):
    assert weights.main(["--size", "64", "--per-image", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line[:22].strip(): line[22:].split() for line in lines[2:]}
    assert lines[0].startswith("2 windows a row")
    for name in (*RAIN_TYPES, "smeared noise"):
        before, after, gain = (float(value) for value in rows[name][:3])
        assert abs(after - before - gain) < 0.011
    assert rows["clean, day"][0] == rows["clean, night"][0] == "inf"
    assert float(rows["clean, day"][1]) > 38
    mean = sum(float(rows[name][2]) for name in RAIN_TYPES) / 4
    text = r"mean gain over drs, drd, nrs, nrd: (.*) dB, standard error over these windows (.*) dB"
    last = re.fullmatch(text, lines[-1])
    assert abs(mean - float(last[1])) < 0.011
    assert 0 < float(last[2]) < 5


def test_the_standard_error_is_that_of_the_mean():
    assert standard_error([1, 3]) == pytest.approx(1)
    assert standard_error([1, 3] * 50) == pytest.approx(0.1, rel=0.01)


def test_smeared_noise_brightens_along_one_direction():
    photo = np.full((128, 128, 3), 60, np.uint8)
    rain = smeared_noise(photo, np.random.default_rng(3)).astype(int) - photo
    assert rain.min() >= 0 and 0.02 < (rain[..., 0] > 10).mean() < 0.6
    assert (rain[..., 0] == rain[..., 2]).all()
    down, across = (np.abs(np.diff(rain[..., 0], axis=axis)).mean() for axis in (0, 1))
    assert down < 0.7 * across
