"""Each protocol gives what its scorer gives: by scikit-image, piq, the toolbox, OpenCV and the formulas written out."""

import math

import cv2
import numpy as np
import pytest
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.metrics import psnr_ssim as metrics
from unirain_plugin.metrics.protocols import PROTOCOLS, matlab_luma, measure_of
from unirain_plugin.metrics.psnr_ssim import luma, psnr, ssim
from unirain_plugin.metrics.scoring import make_metrics


def pair(shape=(45, 54, 3), noise=25, seed=0):
    """Smooth colours and a noisy version; sides are no multiples of 4 or 16."""
    rng = np.random.default_rng(seed)
    target = cv2.GaussianBlur(rng.integers(0, 256, shape, dtype=np.uint8), (0, 0), 3)
    target = cv2.normalize(target, None, 0, 255, cv2.NORM_MINMAX)
    return np.clip(target + rng.integers(-noise, noise + 1, shape), 0, 255).astype(np.uint8), target


def rounded_y(image):
    """MATLAB's rgb2ycbcr of uint8: in doubles, rounded half away from zero."""
    return np.floor(16 + image @ np.array([65.481, 128.553, 24.966]) / 255 + 0.5)


def full_y(image):
    return np.rint(image @ np.array([0.299, 0.587, 0.114]))


def opencv_y(image):
    return cv2.cvtColor(image[..., ::-1], cv2.COLOR_BGR2YCR_CB)[..., 0]


def gaussian_ssim(image, target, **keys):
    return structural_similarity(
        image, target, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, **keys
    )


def clipped_ssim(image, target):
    """Σ over the inside of l · max(cs, 0), as pyiqa has it."""

    def mean(x):
        kernel = cv2.getGaussianKernel(11, 1.5)
        return cv2.sepFilter2D(np.asarray(x, float), -1, kernel, kernel)[5:-5, 5:-5]

    x, y = mean(image), mean(target)
    covariance = mean(image * target) - x * y
    variances = mean(image**2) - x**2 + mean(target**2) - y**2
    contrast = (2 * covariance + 7.65**2) / (variances + 7.65**2)
    return ((2 * x * y + 2.55**2) / (x**2 + y**2 + 2.55**2) * contrast.clip(0)).mean()


def psnr_of(mse, peak=255.0):
    return 10 * math.log10(peak**2 / mse)


def by_hand(name, image, target):
    """PSNR and SSIM of a protocol, without our code."""
    bgr = image[..., ::-1], target[..., ::-1]
    if name == "rgb":
        return peak_signal_noise_ratio(target, image), gaussian_ssim(image, target, channel_axis=2)
    if name == "y-matlab":
        y = rounded_y(image), rounded_y(target)
        return psnr_of(((y[0] - y[1]) ** 2).mean()), gaussian_ssim(*y)
    if name == "y-basicsr":
        return calculate_psnr(*bgr, 0, test_y_channel=True), calculate_ssim(*bgr, 0, test_y_channel=True)
    if name == "rainrag":
        mse = ((image / 255 - target / 255) ** 2).mean()
        return psnr_of(mse + 1e-8, 1), clipped_ssim(full_y(image), full_y(target))
    if name == "raindrop":
        y = [opencv_y(side[:44, :52]) for side in (image, target)]
        return peak_signal_noise_ratio(y[1], y[0]), structural_similarity(*y)
    inside = [side[6:38, 3:51] / 255 for side in (image, target)]
    return peak_signal_noise_ratio(*inside[::-1], data_range=1), structural_similarity(
        *inside, data_range=1, channel_axis=2
    )


@pytest.mark.parametrize("noise", [25, 1, 250])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_is_its_scorer(name, noise):
    image, target = pair(noise=noise)
    psnr, ssim = (PROTOCOLS[name].value(measure, image, target) for measure in ("psnr", "ssim"))
    expected = by_hand(name, image, target)
    assert psnr == pytest.approx(expected[0], abs=2e-4)
    assert ssim == pytest.approx(expected[1], abs=2e-5 if name == "rainrag" else 1e-7)  # halves in float32


def test_piq_agrees():
    """Its PSNR adds 1e-8 to the squared error, as pyiqa's, which was made from it."""
    piq = pytest.importorskip("piq", reason="no piq here: pip install piq")
    sides = pair()
    rgb = [torch.from_numpy(side.transpose(2, 0, 1)[None].astype(float)) for side in sides]
    y = [torch.from_numpy(rounded_y(side)[None, None]) for side in sides]
    assert PROTOCOLS["rainrag"].value("psnr", *sides) == pytest.approx(piq.psnr(*rgb, data_range=255).item(), abs=1e-9)
    for name, tensors in (("rgb", rgb), ("y-matlab", y)):
        expected = piq.ssim(*tensors, data_range=255, downsample=False).item()
        assert PROTOCOLS[name].value("ssim", *sides) == pytest.approx(expected, abs=1e-7)


def test_rounding_costs_decibels_where_images_are_close_and_halves_are_rounded_up():
    """One level in blue of each pixel is 24.966 / 255 of a level in Y: rounding takes that to 0, at times to 1."""
    target = pair()[1]
    image = target.copy()
    image[..., 2] = np.where(target[..., 2] < 255, target[..., 2] + 1, 254)
    unrounded = PROTOCOLS["y-basicsr"].value("psnr", image, target)
    assert unrounded == pytest.approx(psnr_of((24.966 / 255) ** 2), abs=1e-3)
    assert PROTOCOLS["y-matlab"].value("psnr", image, target) < unrounded - 5
    # 299 R + 587 G + 114 B = 42,500 gives Y = 52.5 exactly; floats may land on either side.
    r, g = np.mgrid[:256, :256]
    b, rest = np.divmod(42_500 - 299 * r - 587 * g, 114)
    ties = np.stack([r, g, b], -1)[(rest == 0) & (b >= 0) & (b < 256)]
    assert len(ties) and (matlab_luma(ties[None].astype(np.uint8)) == 53).all()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_equal_and_small_images(name):
    image = pair()[1]
    assert PROTOCOLS[name].value("psnr", image, image) == (80.0 if name == "rainrag" else math.inf)
    assert PROTOCOLS[name].value("ssim", image, image) == pytest.approx(1)
    protocol, small = PROTOCOLS[name], image[:, : PROTOCOLS[name].smallest("ssim") - 1]
    assert math.isnan(protocol.value("ssim", small, small))
    nothing = image[: protocol.multiple - 1]
    assert math.isnan(protocol.value("psnr", nothing, nothing))
    with pytest.raises(DataError, match="found 45×54 and 44×54"):
        protocol.value("psnr", image, image[:44])


def test_captions_say_crop_colour_window_and_rounding():
    for name, words in {
        "rgb": "no border cropped; PSNR and SSIM on RGB (8 bits); SSIM's Gaussian window of 11 × 11 (σ 1.5) inside",
        "y-matlab": "MATLAB's Y (16 to 235), rounded",
        "rainrag": "PSNR on RGB (8 bits), SSIM on full-range Y (YIQ), rounded",
        "raindrop": "sides cut to multiples of 4 at right and bottom",
        "promptir": "multiples of 16 around the centre; PSNR and SSIM on RGB (8 bits); SSIM's flat window of 7 × 7",
    }.items():
        assert words in str(PROTOCOLS[name])


def test_names_and_the_protocol_of_a_stored_value():
    assert measure_of("psnr") == ("psnr", "rgb") and measure_of("ssim", protocol="rainrag") == ("ssim", "rainrag")
    assert measure_of("ssim_y", protocol="rainrag") == ("ssim", "y-basicsr") and measure_of("niqe") is None
    assert measure_of("psnr@y-matlab") == ("psnr", "y-matlab")
    with pytest.raises(OptionError, match=r"'psnr@y-matlap': unknown protocol 'y-matlap'\. Did you mean 'y-matlab'\?"):
        measure_of("psnr@y-matlap")
    with pytest.raises(OptionError, match="'niqe@rgb': only psnr and ssim are taken under a protocol"):
        measure_of("niqe@rgb")
    metrics, _ = make_metrics(["psnr", "ssim_y", "psnr@y-basicsr", "ssim@raindrop", "niqe"], protocol="y-matlab")
    assert [m.key for m in metrics] == ["psnr@y-matlab", "ssim_y", "psnr_y", "ssim@raindrop", "niqe"]
    assert make_metrics(["psnr"])[0][0].key == "psnr"


def noisy_pair(shape, seed=0, noise=9):
    rng = np.random.default_rng(seed)
    target = cv2.GaussianBlur(rng.integers(0, 256, shape, dtype=np.uint8), (0, 0), 2)
    return np.clip(target + rng.integers(-noise, noise + 1, shape), 0, 255).astype(np.uint8), target


def halves(shape):
    """Black and white halves, one of them with noise: large values and variances of zero side by side."""
    target = np.zeros(shape, np.uint8)
    target[:, shape[1] // 2 :] = 255
    image = target.copy()
    image[::3, ::2] ^= 1
    return image, target


PAIRS = {
    "larger than a tile": noisy_pair((139, 301, 3)),
    "a tile exactly": noisy_pair((138, 138, 3)),
    "one row more": noisy_pair((139, 138, 3)),
    "the window": noisy_pair((11, 11, 3)),
    "a strip": noisy_pair((12, 200, 3)),
    "extremes": halves((60, 70, 3)),
    "flat": (np.full((20, 20, 3), 255, np.uint8), np.zeros((20, 20, 3), np.uint8)),
    "one value apart": (np.full((20, 20, 3), 101, np.uint8), np.full((20, 20, 3), 100, np.uint8)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_values_are_the_toolboxs(pair):
    image, target = pair
    bgr = image[..., ::-1], target[..., ::-1]
    assert psnr(image, target) == pytest.approx(calculate_psnr(*bgr, crop_border=0), abs=1e-10)
    assert ssim(image, target) == pytest.approx(calculate_ssim(*bgr, crop_border=0), abs=1e-10)
    y = luma(image), luma(target)
    on_y = {"crop_border": 0, "test_y_channel": True}
    assert psnr(*y) == pytest.approx(calculate_psnr(*bgr, **on_y), abs=1e-7)
    assert ssim(*y) == pytest.approx(calculate_ssim(*bgr, **on_y), abs=1e-7)


def test_threads_and_strides_change_nothing(monkeypatch):
    image, target = noisy_pair((150, 160, 3))
    alone = ssim(image, target)
    monkeypatch.setattr(metrics, "_WORTH_THREADS", 0)
    monkeypatch.setattr(metrics, "_THREADS", 3)
    assert ssim(image, target) == alone
    image, target = noisy_pair((40, 50, 3))
    assert psnr(image[:, ::-1], target[:, ::-1]) == psnr(image, target)
    assert ssim(image[..., ::-1], target[..., ::-1]) == pytest.approx(ssim(image, target), abs=1e-12)


def test_psnr_by_hand_ssim_of_small_images_and_means_added_one_by_one():
    target = np.full((4, 5, 3), 100, np.uint8)
    image = target + 5
    assert psnr(image, target) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(target, target) == math.inf
    assert math.isnan(ssim(*noisy_pair((10, 40, 3))))
    assert metrics.finite_mean([1e16, 1.0, math.inf, -1e16]) == 0  # a compensated sum, as of Python 3.12, gives 1/3
    assert metrics.finite_mean([3, math.inf, 5]) == 4 and metrics.finite_mean([math.inf]) == math.inf


def test_luma_is_that_of_matlabs_rgb2ycbcr_and_other_sizes_are_refused():
    white, black, red, green, blue = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255)
    for colour, y in ((white, 235), (black, 16), (red, 81.481), (green, 144.553), (blue, 40.966)):
        assert luma(np.full((2, 3, 3), colour, np.uint8)) == pytest.approx(np.full((2, 3, 1), y), abs=1e-4)
    for metric in (psnr, ssim):
        with pytest.raises(DataError, match="found 20×30 and 20×31"):
            metric(np.zeros((20, 30, 3), np.uint8), np.zeros((20, 31, 3), np.uint8))
