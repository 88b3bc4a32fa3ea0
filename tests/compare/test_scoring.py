"""Names and tables of metrics; lpips and pyiqa present, absent and offline."""

import sys
import types

import cv2
import numpy as np
import pytest
import torch

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.metrics import scoring
from unirain_plugin.metrics.scoring import check_names, make_metrics


def pixels(size=200, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def fake_pyiqa(monkeypatch, create):
    module = types.ModuleType("pyiqa")
    module.create_metric = create
    module.list_models = lambda: ["lpips", "musiq", "dists"]
    module.__spec__ = types.SimpleNamespace(name="pyiqa")
    monkeypatch.setitem(sys.modules, "pyiqa", module)
    without(monkeypatch, "lpips")


def without(monkeypatch, *packages):
    find = scoring.importlib.util.find_spec
    monkeypatch.setattr(scoring.importlib.util, "find_spec", lambda name: None if name in packages else find(name))


def test_niqe_is_the_toolboxs_and_what_has_no_value_is_none():
    from basicsr.metrics import calculate_niqe

    (niqe,), missing = make_metrics(["niqe"])
    image = pixels(192)  # the smallest side that has a value
    assert not missing and not niqe.higher_is_better and not niqe.needs_gt
    assert niqe(image, None) == pytest.approx(float(calculate_niqe(image[..., ::-1], crop_border=0)), abs=1e-9)
    (niqe, psnr, ssim), _ = make_metrics(["niqe", "psnr", "ssim"])
    small = pixels(8)
    assert niqe(pixels(200)[:191], None) is None
    assert niqe(np.full((200, 200, 3), 7, np.uint8), None) is None
    assert psnr(small, None) is None
    assert ssim(small, small) is None


def test_a_missing_package_is_told_and_the_others_go_on(monkeypatch):
    without(monkeypatch, "lpips", "pyiqa")
    metrics, missing = make_metrics(["psnr", "lpips", "ssim", "musiq"])
    assert [m.name for m in metrics] == ["psnr", "ssim"] and list(missing) == ["lpips", "musiq"]
    assert "lpips: needs the package lpips: pip install lpips (BSD licence" in missing["lpips"]
    assert "musiq: needs the package pyiqa: pip install pyiqa (its licence, PolyForm Nonc" in missing["musiq"]


def test_lpips_is_had_without_pyiqa(monkeypatch):
    pytest.importorskip("lpips", reason="no lpips here: pip install lpips")
    import torchvision

    torch.manual_seed(0)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in torchvision.models.alexnet().state_dict().items()}
    weights = {
        key: torch.randn(shape) * 0.1 if key.startswith("features") else torch.zeros(1).expand(shape)
        for key, shape in shapes.items()
    }
    asked = []
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda url, **_: asked.append(url) or dict(weights)
    )
    monkeypatch.setattr(torch.nn.init, "kaiming_uniform_", lambda tensor, **_: tensor)  # overwritten anyway; slow
    without(monkeypatch, "pyiqa")
    (metric,), missing = make_metrics(["lpips"])
    assert not missing and "alexnet" in asked[0] and (metric.higher_is_better, metric.needs_gt) == (False, True)
    first, second = pixels(64), pixels(64, seed=1)
    assert metric(first, first) == 0 and metric(first, None) is None
    assert metric(first, second) == pytest.approx(lpips_by_hand(weights, first, second), rel=1e-4)
    with pytest.raises(DataError, match="lpips: no value for a 16×16 image: "):
        metric(pixels(16), pixels(16))


def lpips_by_hand(weights, first, second):
    """Σ over layers of the mean of Σ_c w_c (â − b̂)², on AlexNet's five activations (Zhang et al. 2018, eq. 1)."""
    import lpips

    path = f"{lpips.__path__[0]}/weights/v0.1/alex.pth"
    linear = torch.load(path, map_location="cpu", weights_only=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = torch.stack([(torch.from_numpy(i / 255.0).float() - mean) / std for i in (first, second)]).permute(0, 3, 1, 2)
    total = 0.0
    for layer, (index, stride, padding) in enumerate([(0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)]):
        if index in (3, 6):
            x = torch.nn.functional.max_pool2d(x, 3, 2)
        kernel, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
        x = torch.nn.functional.conv2d(x, kernel, bias, stride, padding).relu()
        unit = x / x.norm(dim=1, keepdim=True)
        total += (linear[f"lin{layer}.model.1.weight"][0] * (unit[0] - unit[1]) ** 2).sum(0).mean().item()
    return total


def test_missing_weights_are_told(monkeypatch):
    def create(name, device):
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    fake_pyiqa(monkeypatch, create)
    metrics, missing = make_metrics(["musiq", "psnr"])
    assert [m.name for m in metrics] == ["psnr"]
    assert "name resolution" in missing["musiq"] and "downloaded at first use" in missing["musiq"]


def test_an_image_that_pyiqa_refuses_is_told(monkeypatch):
    def refuse(image):
        raise AssertionError("at least 224 pixels")

    fake_pyiqa(monkeypatch, lambda name, device: refuse)
    refuse.metric_mode = "NR"
    (musiq,), _ = make_metrics(["musiq"])
    with pytest.raises(DataError, match="musiq: no value for a 16×16 image: at least 224 pixels"):
        musiq(pixels(16), None)


def test_pyiqa_metrics_get_rgb_tensors(monkeypatch):
    def l1(image, target):
        assert image.shape == (1, 3, 5, 6) and image.dtype == torch.float32
        return (image - target).abs().mean(dim=(1, 2, 3))

    def red(image):
        return image[:, 0].mean()

    (l1.metric_mode, l1.lower_better), (red.metric_mode, red.lower_better) = ("FR", True), ("NR", False)
    fake_pyiqa(monkeypatch, lambda name, device: l1 if name == "lpips" else red)
    (lpips, musiq), missing = make_metrics(["lpips", "musiq"])
    assert not missing
    assert (lpips.higher_is_better, lpips.needs_gt) == (False, True)
    assert (musiq.higher_is_better, musiq.needs_gt) == (True, False)
    image = np.zeros((5, 6, 3), np.uint8)
    image[..., 0] = 255
    assert lpips(image, np.zeros_like(image)) == pytest.approx(1 / 3)
    assert musiq(image, None) == pytest.approx(1)
    assert lpips(image, None) is None


def test_misspelt_names_are_refused_and_an_installed_pyiqa_knows_its_names(monkeypatch):
    for name, near in (("pnsr", "psnr"), ("ssim_Y", "ssim_y"), ("nique", "niqe")):
        told = rf"x\.yml: metrics\[1\]: unknown metric '{name}'.*Did you mean '{near}'"
        with pytest.raises(OptionError, match=told):
            check_names(["psnr", name], "x.yml")
    fake_pyiqa(monkeypatch, None)
    with pytest.raises(OptionError, match=r"unknown metric 'muzik'\. Did you mean 'musiq'\?"):
        check_names(["muzik"], "x.yml")
    check_names(["dists", "lpips"], "x.yml")
    without(monkeypatch, "pyiqa")  # which alone may know a name
    check_names(["psnr", "lpips", "deepwsd"], "x.yml")
