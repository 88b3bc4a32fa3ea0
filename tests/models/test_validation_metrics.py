"""Which figures are computed, and for which images there are none."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.metrics.protocols import PROTOCOLS
from unirain_plugin.metrics.scoring import BUILT_IN
from unirain_plugin.models.figures import MetricSuite, mean_of, resolve_metrics


def any_image(size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_named_metrics_by_hand():
    """One pixel of 16 differs by 16 in one channel: RGB mse is 256/48; in Y the blue channel counts 24.966/255."""
    target = np.full((4, 4, 3), 100, np.uint8)
    restored = target.copy()
    restored[0, 0, 0] += 16  # BGR: blue
    values = MetricSuite(resolve_metrics(["psnr", "psnr_y"]))(restored, target, "x")
    assert values["psnr"] == pytest.approx(10 * math.log10(255**2 / (256 / 48)), abs=1e-6)
    assert values["psnr_y"] == pytest.approx(10 * math.log10(255**2 / ((16 * 24.966 / 255) ** 2 / 16)), abs=1e-3)


def test_the_toolboxs_form_and_the_short_forms_mean_the_same():
    full = {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False, "better": "higher"}}
    assert resolve_metrics(full) == resolve_metrics(["psnr"]) == resolve_metrics({"psnr": None}) == full
    assert resolve_metrics({"psnr": {"crop_border": 4}})["psnr"]["crop_border"] == 4
    assert resolve_metrics({"mine": {"type": "calculate_psnr", "crop_border": 0}})["mine"]["better"] == "higher"
    assert resolve_metrics(None) is None
    better = {name: options["better"] for name, options in resolve_metrics(BUILT_IN).items()}
    assert better == {"psnr": "higher", "ssim": "higher", "psnr_y": "higher", "ssim_y": "higher", "niqe": "lower"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metrics_under_a_protocol(protocol):
    """By ``val: protocol``, by a metric's own option, and by its name."""
    a, b = any_image(40, 1), any_image(40, 2)
    expected = [PROTOCOLS[protocol].value(measure, a[..., ::-1], b[..., ::-1]) for measure in ("psnr", "ssim")]
    for section, keys in (
        (["psnr", "ssim"], {"protocol": protocol}),
        ({"psnr": {"type": "calculate_psnr", "crop_border": 0}, "ssim": {}}, {"protocol": protocol}),
        ({"psnr": {"protocol": protocol}, "ssim": {"protocol": protocol}}, {"protocol": "rgb"}),
        ({f"psnr@{protocol}": None, "s": {"type": "calculate_ssim", "crop_border": 0, "protocol": protocol}}, {}),
    ):
        values = MetricSuite(resolve_metrics(section, **keys))(a, b, "x")
        assert list(values.values()) == pytest.approx(expected, abs=1e-6)


def test_the_log_says_what_a_named_protocol_is(monkeypatch):
    told = []
    monkeypatch.setattr("unirain_plugin.models.figures.get_root_logger", lambda: SimpleNamespace(info=told.append))
    MetricSuite(resolve_metrics(["psnr", "ssim@raindrop"]))
    assert told == [f"Metric ssim@raindrop: protocol raindrop, {PROTOCOLS['raindrop']}."]


def test_the_protocol_of_the_section_is_for_psnr_and_ssim_that_name_none():
    metrics = resolve_metrics({"psnr_y": None, "niqe": None, "own": {"type": "calculate_niqe"}}, "y-matlab")
    assert metrics["psnr_y"]["test_y_channel"] and not any("protocol" in options for options in metrics.values())
    with pytest.raises(OptionError, match="mine: protocol: it says what is cropped"):
        resolve_metrics({"mine": {"type": "calculate_psnr", "crop_border": 4}}, "y-matlab")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (["pnsr"], r"val: metrics: 'pnsr' has no type and is none of psnr, .*Did you mean 'psnr'\?"),
        ({"psnr": {"type": "calculate_pnsr"}}, r"psnr: type: unknown metric 'calculate_pnsr'. Did you mean"),
        ({"psnr": {"better": "more"}}, "psnr: better: expected higher or lower, found 'more'"),
        ({"psnr": 1}, "val: metrics: psnr: expected the metric's options, found 1"),
        ("psnr", "val: metrics: expected a mapping or a list of names"),
        (["psnr@matlab"], r"'psnr@matlab': unknown protocol 'matlab'\. Did you mean 'y-matlab'\? Known: rgb, y-matlab"),
        ({"psnr": {"protocol": "rgbb"}}, r"psnr: protocol: unknown protocol 'rgbb'\. Did you mean 'rgb'\?"),
        ({"niqe": {"protocol": "rgb"}}, "niqe: protocol: only psnr and ssim are taken under a protocol"),
        ({"psnr_y": {"protocol": "rgb"}}, "psnr_y: protocol: it says what is cropped and which colours count"),
        ({"psnr": {"protocol": "y-matlab", "crop_border": 4}}, "expected neither crop_border nor test_y_channel"),
    ],
)
def test_bad_metrics_are_named(section, message):
    with pytest.raises(OptionError, match=message):
        resolve_metrics(section)


@pytest.mark.parametrize(
    ("metric", "image"),
    [("ssim", any_image(10)), ("niqe", any_image(150)), ("niqe", np.full((200, 200, 3), 7, np.uint8))],
    ids=["ssim-tiny", "niqe-tiny", "niqe-flat"],
)
def test_images_without_a_value_are_left_out_with_one_warning(metric, image, warnings_of):
    suite = MetricSuite(resolve_metrics([metric]))
    assert all(math.isnan(suite(image, image, name)[metric]) for name in ("a.png", "b.png"))
    (message,) = warnings_of
    assert f"Metric {metric} leaves out images" in message and "a.png" in message


def test_without_ground_truth_only_blind_metrics_have_a_value_and_means_leave_out_nan():
    values = MetricSuite(resolve_metrics(["psnr", "niqe"]))(any_image(200), None, "x")
    assert math.isnan(values["psnr"]) and values["niqe"] > 0
    assert mean_of([1.0, math.nan, 3.0]) == 2.0 and math.isnan(mean_of([math.nan]))


@pytest.mark.parametrize(("border", "least"), [(0, 11), (2, 15)])
def test_the_least_side_counts_without_the_border_of_both_sides_or_what_a_protocol_cuts(border, least, warnings_of):
    suite = MetricSuite(resolve_metrics({"ssim": {"crop_border": border}}))
    assert suite(any_image(least), any_image(least), "whole.png")["ssim"] == pytest.approx(1.0)
    assert not warnings_of
    assert math.isnan(suite(any_image(least - 1), any_image(least - 1), "small.png")["ssim"])
    assert "small.png: the shorter side is 10 pixels, needed are 11" in warnings_of.pop()
    suite = MetricSuite(resolve_metrics(["psnr", "ssim"], "promptir"))
    assert all(map(math.isnan, suite(any_image(15), any_image(15), "small.png").values()))
    assert "small.png: the shorter side is 0 pixels, needed are 1" in warnings_of[0]
