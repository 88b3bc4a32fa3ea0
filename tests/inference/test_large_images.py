"""Images larger than a tile: UniRain layer by layer gives the whole image's result, others blended tiles."""

import os
import pathlib

import numpy as np
import pytest
import torch
from inference_helpers import random_image, random_network
from PIL import Image

import unirain_plugin
from unirain_plugin.archs import kernels
from unirain_plugin.errors import DataError, OptionError, UniRainError
from unirain_plugin.inference import restoring, streamed
from unirain_plugin.inference.restoring import RestoreOptions, restore, restore_tensor
from unirain_plugin.inference.streamed import MapStore, restore_streamed

VARIANTS = {
    "asymmetric": {},
    "hard by window": {"hard_routing": "window", "window": 8},
    "hard by window, two": {"hard_routing": "window", "window": 4, "top_k": 2, "encoder_moe": "hard"},
    "hard by image, two": {"encoder_moe": "hard", "latent_moe": "hard", "top_k": 2},
    "soft by window": {"soft_routing": "window", "window": 4, "latent_moe": "soft"},
    "soft by image": {"soft_routing": "image", "decoder_moe": "soft"},
    "dense, narrow": {"encoder_moe": "none", "decoder_moe": "none", "widen_last": False},
    "masked": {"dispatch": "dense"},
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def net():
    return random_network()


def image_tensor(height, width):
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_streamed_equals_whole(changes, monkeypatch):
    net, x = random_network(**changes), image_tensor(61, 47)
    with torch.no_grad():
        whole = net(x)
    assert (whole - x).abs().mean() > 0.02  # the network does something
    for piece, strip_bytes, spare in ((3, 2**20, 0), (17, 2**17, 2**30), (64, 2**14, 10**5)):
        monkeypatch.setattr(streamed, "_SPARE_BYTES", spare)
        monkeypatch.setattr(streamed, "_STRIP_BYTES", strip_bytes)
        torch.testing.assert_close(restore_streamed(net, x, MapStore(CPU, piece)), whole, rtol=0, atol=2e-5)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="a system that cannot reserve room in a file")
def test_scratch_files_hold_what_memory_may_not_and_a_full_folder_is_told(tmp_path, monkeypatch, net):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made, x = [], image_tensor(40, 36)
    original = torch.from_file
    monkeypatch.setattr(torch, "from_file", lambda name, **kw: made.append(name) or original(name, **kw))
    result = restore_streamed(net, x, MapStore(CPU, 16, limit=0))
    with torch.no_grad():
        torch.testing.assert_close(result, net(x), rtol=0, atol=2e-5)
    assert len(made) == 3 and all(name.startswith(str(tmp_path)) for name in made)  # a map for each level
    assert list(tmp_path.iterdir()) == []
    store = MapStore(CPU, 64, limit=4000)
    room = store.allocate(1000, torch.float32)
    assert store.free[CPU] == 0
    del room
    assert store.free[CPU] == 4000  # memory of a map counts as free again

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"no room for .* feature maps .No space left.*TMPDIR"):
        MapStore(CPU, 64, limit=0).allocate(10, torch.float32)


@pytest.mark.parametrize("usable", [True, False])
def test_streamed_in_bf16_is_as_near_as_bf16_allows(usable, monkeypatch):
    monkeypatch.setattr(kernels, "has_bfloat16", lambda: usable)
    net, x = random_network(), image_tensor(50, 40)
    with torch.no_grad():
        exact = net(x)
        with torch.autocast("cpu", torch.bfloat16):
            whole = net(x)
            streamed = restore_streamed(net, x, MapStore(CPU, 16))
    assert streamed.dtype == torch.float32
    assert (streamed - exact).abs().max() < 3 * (whole - exact).abs().max() + (1e-3 if usable else 1e-5)
    assert torch.equal(whole, exact) != usable


def test_tiled_and_whole_agree_far_below_the_promised_hundredths_of_a_decibel():
    net = random_network()
    clean, rainy = random_image(180, 260, seed=1), random_image(180, 260, seed=2)

    def psnr(image):
        return -10 * np.log10(np.mean((image / 255.0 - clean / 255.0) ** 2))

    whole, tiled = restore(net, rainy, tile=0), restore(net, rainy, tile=64)
    assert abs(psnr(whole) - psnr(tiled)) < 1e-3
    assert np.abs(whole.astype(int) - tiled.astype(int)).max() <= 1


def test_routing_of_the_whole_image_serves_every_part():
    """Halves that are routed differently on their own are routed as one."""
    net = random_network(strength=0.3)
    x = torch.cat([torch.full((1, 3, 64, 64), 0.05), torch.rand(1, 3, 64, 64)], 3)
    with torch.no_grad():
        whole = net(x)
        alone = torch.cat([net(x[..., :64]), net(x[..., 64:])], 3)
    streamed = restore_streamed(net, x, MapStore(CPU, 32))
    assert (whole - alone).abs().mean() > 1e-3
    assert (whole - streamed).abs().mean() < 1e-3 * (whole - alone).abs().mean()


class Blur(torch.nn.Module):
    """A network of the toolbox's kind: local, reach 2 pixels."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 5, padding=2, padding_mode="replicate")
        self.sizes = []

    def forward(self, x):
        self.sizes.append(x.shape[-2:])
        return self.conv(x)


def test_other_networks_run_on_blended_tiles_without_a_seam():
    net, x = Blur().requires_grad_(False), image_tensor(150, 200)
    whole = restore_tensor(net, x, RestoreOptions(tile=0))
    net.sizes.clear()
    tiled = restore_tensor(net, x, RestoreOptions(tile=64, overlap=16))
    assert set(net.sizes) == {(64, 64)}
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)
    net.sizes.clear()
    restore_tensor(net, x[..., :20, :], RestoreOptions(tile=64, overlap=16))
    assert net.sizes == [(20, 200)], "it has no more pixels than a tile"


def test_ensemble_averages_eight_orientations():
    class Shift(torch.nn.Module):
        def forward(self, x):
            return x.roll(1, 3)

    x = image_tensor(12, 20)
    out = restore_tensor(Shift(), x, RestoreOptions(ensemble=True))
    neighbours = (x.roll(1, 3) + x.roll(-1, 3) + x.roll(1, 2) + x.roll(-1, 2)) / 4
    torch.testing.assert_close(out, neighbours)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(20, 23, 3), (20, 23, 4), (20, 23), (20, 23, 2)])
def test_arrays_keep_shape_and_type(shape, dtype, net):
    depth = dtype if np.issubdtype(dtype, np.integer) else np.uint16
    image = random_image(*shape[:2], channels=shape[2] if len(shape) > 2 else 1, dtype=depth).reshape(shape)
    if depth != dtype:
        image = (image / 65535).astype(dtype)
    before = image.copy()
    out = restore(net, image)
    assert out.shape == shape and out.dtype == dtype
    np.testing.assert_array_equal(image, before)
    if shape[-1] in (2, 4):
        np.testing.assert_array_equal(out[..., -1], image[..., -1])
    assert np.abs(out[..., 0].astype(float) - image[..., 0]).max() > 0


def test_images_of_pillow_keep_their_mode_palettes_become_colours_and_bgr_views_are_taken(net):
    for mode, channels in {"L": 1, "LA": 2, "I;16": 1, "RGB": 3, "RGBA": 4}.items():
        pixels = random_image(20, 23, channels=channels, dtype=np.uint16 if mode == "I;16" else np.uint8)
        pixels = pixels[..., 0] if channels == 1 else pixels
        out = restore(net, Image.fromarray(pixels))
        assert out.mode == mode and out.size == (23, 20)
        np.testing.assert_array_equal(np.asarray(out), restore(net, pixels))
    turned = Image.fromarray(pixels)
    turned.getexif()[0x112] = 6  # as a phone held upright stores it: a quarter turn to the right is missing
    np.testing.assert_array_equal(np.asarray(restore(net, turned)), restore(net, np.rot90(pixels, -1)))
    image = Image.fromarray(random_image(20, 23)).quantize(16)
    out = restore(net, image)
    assert out.mode == "RGB" and np.array_equal(np.asarray(out), restore(net, np.asarray(image.convert("RGB"))))
    image.info["transparency"] = 0
    assert restore(net, image).mode == "RGBA"
    array = random_image(16, 18)
    np.testing.assert_array_equal(restore(net, array[..., ::-1][..., ::-1]), restore(net, array))


def test_the_name_of_a_file_is_taken(tmp_path, net):
    pixels = random_image(20, 23)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    for kind in (str, pathlib.Path):
        np.testing.assert_array_equal(restore(net, kind(tmp_path / "photo.png")), restore(net, pixels))
        with pytest.raises(DataError, match=r"other\.png"):
            restore(net, kind(tmp_path / "other.png"))


@pytest.mark.parametrize(
    ("found", "dtype"),
    [({"avx512_bf16": True}, torch.bfloat16), ({"amx_bf16": True}, torch.bfloat16), ({"avx2": True}, torch.float32)],
)
def test_automatic_precision_is_bf16_where_the_processor_has_it(monkeypatch, found, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    assert RestoreOptions(precision="auto").dtype(CPU) == dtype and RestoreOptions().dtype(CPU) == torch.float32


@pytest.mark.parametrize(
    ("image", "options", "text"),
    [
        (5, {}, "got int; expected an array"),
        (Image.new("CMYK", (4, 4)), {}, "Pillow's mode 'CMYK'; expected RGB"),
        (np.zeros((3, 4, 5, 6), np.uint8), {}, r"shape \(3, 4, 5, 6\)"),
        (np.zeros((0, 4, 3), np.uint8), {}, r"shape \(0, 4, 3\)"),
        (np.zeros((4, 4, 5), np.uint8), {}, "got 5 channels"),
        (np.zeros((4, 4, 3), np.int32), {}, "dtype int32"),
        (np.full((4, 4, 3), 200.0), {}, "values from 200 to 200; expected"),
        (np.full((4, 4, 3), np.nan), {}, "nan"),
        (random_image(8, 8), {"tile": 10}, "tile: got 10; expected 0"),
        (random_image(8, 8), {"tile": 100, "overlap": 60}, "overlap: got 60; expected 0 to half"),
        (random_image(8, 8), {"overlap": -1}, "overlap: got -1"),
        (random_image(8, 8), {"precision": "fp61"}, "Did you mean 'fp16'"),
        (random_image(8, 8), {"memory": -1.0}, "memory: got -1"),
        (random_image(8, 8), {"memory": float("nan")}, "memory: got nan"),
        (random_image(8, 8), {"precision": "fp16"}, "fp16 is for accelerators"),
    ],
)
def test_wrong_images_and_options_are_explained(image, options, text):
    with pytest.raises(OptionError, match=text):
        restore(Blur(), image, **options)


class Failing(torch.nn.Module):
    """Raises an error, or gives what a function makes of the image."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        if isinstance(self.how, Exception):
            raise self.how
        return self.how(x)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("unallocated storage: the layer was never initialised"), False),
        (RuntimeError("shape '[2, 3]' is invalid for input of size 5"), False),
    ],
)
def test_only_a_lack_of_memory_is_called_so_and_its_cause_is_kept(error, is_memory):
    with pytest.raises(UniRainError if is_memory else RuntimeError) as caught:
        restore(Failing(error), random_image(8, 8))
    assert (caught.value.__cause__ is error) if is_memory else (caught.value is error)
    assert ("smaller tile than 512" in str(caught.value)) == is_memory


def test_what_the_network_does_wrong_is_told():
    for how, text in (
        (lambda x: x * float("nan"), "not finite"),
        (lambda x: torch.nn.functional.interpolate(x, scale_factor=2), "keeps the size"),
        (lambda x: (x, x), "returns a tuple; expected one tensor"),
    ):
        for sizes in ((), (64,)):
            with pytest.raises(UniRainError, match=text):
                restore(Failing(how), random_image(99, 99), sizes=sizes)


def test_three_lines():
    assert unirain_plugin.restore is restoring.restore and callable(unirain_plugin.load)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = unirain_plugin.lod


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_levels_are_rounded(dtype):
    top = np.iinfo(dtype).max
    net = torch.nn.Conv2d(3, 3, 1, groups=3).requires_grad_(False)
    net.weight.fill_(1)
    ramp = np.linspace(0, top - 1, 3 * 4096).astype(dtype).reshape(64, 64, 3)
    for more in (0.0, 0.4, 0.6):
        net.bias.fill_(more / top)
        assert np.array_equal(restore(net, ramp), ramp + dtype(round(more)))
