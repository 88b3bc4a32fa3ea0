"""Wrong options give errors that say what, which, and what was expected."""

import math
import re
from pathlib import Path

import pytest

import unirain_plugin
from unirain_plugin.errors import OptionError
from unirain_plugin.losses.reweighting import ReweightingOptions, build_reweighter


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "papr"}, r"mode: found the text 'papr'; expected one of paper, coba, .*Did you mean 'paper'\?"),
        ({"mode": None}, r"mode: found nothing \(null\)"),
        ({"windw": 5}, r"windw: unknown key.*Did you mean 'window'\?"),
        ({"num_types": 0}, r"num_types: found 0; expected an integer ≥ 1"),
        ({"num_types": True}, r"num_types: found true"),
        ({"window": 1}, r"window: found 1; expected an integer ≥ 2"),
        ({"window": 2.5}, r"window: found 2.5"),
        ({"tau": -1}, r"tau: found -1; expected a number ≥ 0"),
        ({"tau": "1e1"}, r"tau: found the text '1e1'.*Write 1.0e\+1"),
        ({"tau": math.nan}, r"tau: found nan"),
        ({"warmup": -1}, r"warmup: found -1; expected an integer ≥ 0"),
        ({"update_freq": 0}, r"update_freq: found 0; expected an integer ≥ 1"),
        ({"source": "vel"}, r"source: found the text 'vel'; expected one of train, val\. Did you mean 'val'\?"),
        ({"floor": 0.3}, r"floor: found 0.3; expected a number from 0 to 1/num_types = 0.25"),
        ({"floor": -0.1}, r"floor: found -0.1"),
        ({"ema": 1.0}, r"ema: found 1.0; expected a number ≥ 0 and < 1"),
        ({"temperature": 0}, r"temperature: found 0; expected a number > 0"),
        ({"seed": -1}, r"seed: found -1"),
        ({"lr": 0.0}, r"lr: found 0.0"),
        ({"gamma": -0.1}, r"gamma: found -0.1"),
    ],
)
def test_error_texts(options, message):
    with pytest.raises(OptionError, match=message):
        build_reweighter(**options)


def test_limits_are_accepted_and_tau_zero_keeps_the_balance():
    reweighter = build_reweighter(num_types=1, window=2, tau=0, warmup=0, floor=1.0, ema=0, update_freq=1, source="val")
    assert reweighter.update([0.5]).tolist() == [1.0]
    reweighter = build_reweighter(num_types=2, tau=0.0, warmup=0)
    for losses in ([1.0, 1.0], [0.5, 2.0], [0.4, 4.0]):
        weights = reweighter.update(losses)
    assert reweighter.diagnostics()["af"] == pytest.approx(1.0)
    assert weights.tolist() == pytest.approx(reweighter.diagnostics()["tbs"])


def test_defaults_are_those_of_the_manual():
    manual = (Path(unirain_plugin.__file__).parent / "docs/loss.md").read_text(encoding="utf-8")
    told = {}
    for keys, values in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", manual, re.M):
        told |= dict(zip(re.findall(r"\w+", keys), values.strip().replace("`", "").split(", "), strict=False))
    options = vars(ReweightingOptions(num_types=4))
    checked = {key: told[key] for key in options.keys() - {"num_types", "floor"}}
    assert checked == {key: f"{options[key]}".removesuffix(".0") for key in checked}
