"""Seekable LMDBs: ordinary files for every reader, from which a crop is decoded by itself, bit for bit the same."""

import io
import shutil
import zlib
from array import array
from dataclasses import replace

import cv2
import lmdb
import numpy as np
import pytest
import torch
from data_images import any_image, data_set, encode, encode_pil, make_lmdb, same_pixels, stock_data_set, write_pair
from image_matrix import png
from PIL import Image
from torch.utils.data import DataLoader

from unirain_plugin.data.draws import SampleIndex
from unirain_plugin.data.images import CONVERSIONS, EncodedImage
from unirain_plugin.data.partial_decode import RowIndex
from unirain_plugin.data.sources import ROWS, read_meta, read_seekable
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.preparation.command import create_lmdb
from unirain_plugin.preparation.seekable import make_seekable

needs_jpegtran = pytest.mark.skipif(shutil.which("jpegtran") is None, reason="needs jpegtran")
SIDES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 39, 40)
SIZES = [(h, SIDES[(7 * i + 3) % 15]) for i, h in enumerate(SIDES)] + [(h, w) for h in (17, 33, 40) for w in SIDES]
SAMPLINGS = {"444": 0x111111, "422": 0x211111, "440": 0x121111, "420": 0x221111, "411": 0x411111}


def noisy(height, width, seed=0, channels=3, dtype=np.uint8):
    rng = np.random.default_rng((seed, height, width))
    coarse = rng.integers(0, np.iinfo(dtype).max, (height // 3 + 1, width // 3 + 1, channels), dtype=dtype)
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return fine.reshape(height, width, channels)


def pixels(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def check(data, made):
    """The new file has the same pixels, and every window of rows those of the whole."""
    whole = pixels(data)
    assert np.array_equal(pixels(made.data), whole)
    assert np.array_equal(*(np.asarray(Image.open(io.BytesIO(each)).convert("RGB")) for each in (data, made.data)))
    height = whole.shape[0]
    windows = {(start, min(start + 8, height)) for start in range(0, height, 5)} | {(0, height), (height - 1, height)}
    for start, stop in windows:
        image = EncodedImage(memoryview(made.data), "x", CONVERSIONS, index=made.index)
        assert np.array_equal(image.decode_rows(stop, start)[: stop - start], whole[start:stop]), (start, stop)
        plain = EncodedImage(made.data, "x", CONVERSIONS)
        assert np.array_equal(plain.decode_rows(stop, start)[: stop - start], whole[start:stop]), (start, stop)


@needs_jpegtran
@pytest.mark.parametrize("sampling", [*SAMPLINGS, "grey", "cmyk"])
def test_rows_of_a_jpeg_are_those_of_the_whole_for_every_sampling_and_size(sampling):
    entered = 0
    for number, (height, width) in enumerate(SIZES):
        image = noisy(height, width)
        if sampling == "cmyk":
            data = encode_pil(image, mode="CMYK", quality=90)
        elif sampling == "grey":
            data = encode(image[..., 0], ".jpg")
        else:
            options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLINGS[sampling]]
            options += [cv2.IMWRITE_JPEG_QUALITY, 80 + number % 20]
            options += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if number % 5 == 4 else []
            options += [cv2.IMWRITE_JPEG_RST_INTERVAL, 1 + number % 3] if number % 5 == 3 else []
            data = encode(image, ".jpg", *options)
        made = make_seekable(data, "x.jpg")
        assert (made.index is None) == (made.how == "kept: one block of rows")
        if made.index is not None:
            entered += 1
            check(data, made)
    assert entered > 40


def pngs(height, width):
    """Kind → file, of every kind of PNG."""
    for dtype in (np.uint8, np.uint16):
        image = noisy(height, width, 1, 4, dtype)
        for name, shown in (("rgb", image[..., :3]), ("rgba", image), ("grey", image[..., 0])):
            yield f"{name} {dtype.__name__}", encode(shown)
    pil = Image.fromarray(noisy(height, width))
    kinds = {"palette": pil.quantize(60), "palette 4 bits": pil.quantize(9), "one bit": pil.convert("1")}
    for name, shown in (kinds | {"grey alpha": pil.convert("LA"), "filters": pil}).items():
        file = io.BytesIO()
        shown.save(file, "PNG", **({"transparency": 3} if name == "palette" else {}))
        yield name, file.getvalue()
    values = noisy(height, width, 3).astype(">u2") * 257
    yield "16 bits by hand", png(16, 2, [row.tobytes() for row in values], size=(width, height))


@pytest.mark.parametrize("part", range(4))
def test_rows_of_a_png_are_those_of_the_whole_for_every_kind_and_size(part):
    for height, width in SIZES[part::8]:
        for kind, data in pngs(height, width):
            made = make_seekable(data, kind, block=1)
            assert (made.index is None) == (height <= 8), (kind, made.how)
            if made.index is not None:
                check(data, made)


def test_an_interlaced_png_is_made_a_plain_one():
    """Of each of the seven passes it has its rows, with no filter."""
    image = noisy(33, 21, 5)
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = [row.tobytes() for y, x, dy, dx in passes for row in image[y::dy, x::dx] if row.size]
    data = bytearray(png(8, 2, rows, size=(21, 33)))
    data[28] = 1
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    assert np.array_equal(pixels(data), image[..., ::-1])
    made = make_seekable(bytes(data), "x", block=1)
    assert made.how == "PNG (was interlaced)" and made.data[28] == 0
    check(bytes(data), made)


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (encode(any_image(64, 64), ".webp"), "kept: neither JPEG nor PNG"),
        (encode_pil(any_image(64, 64), orientation=6), "kept: turned by EXIF"),
        (encode(any_image(64, 64)), "kept: one block of rows"),
        (encode(any_image(200, 300)).replace(b"\0\0IDAT", b"\0\0IDAT"), "PNG"),
    ],
)
def test_what_cannot_gain_is_kept_and_told(data, how):
    made = make_seekable(data, "x")
    assert made.how == how and (made.data == data) == (made.index is None) == how.startswith("kept")


@needs_jpegtran
def test_what_cannot_be_done_without_loss_is_kept():
    good = encode(any_image(64, 64), ".jpg")
    second = good[:2] + b"\xff\xe2\x00\x08MPF\0\0\0" + good[2:] + good
    assert make_seekable(second, "x").how == "kept: JPEG with a second image"
    broken = good[:-300] + good[-2:]
    assert make_seekable(broken, "x").how.startswith("kept: jpegtran says '")


def test_a_damaged_png_is_named():
    data = encode(any_image(200, 300))
    for bad in (png(8, 2, [bytes(900)] * 100, size=(300, 200)), data[:2000] + bytes(9) + data[2009:]):
        with pytest.raises(DataError, match=r"bad\.png: the PNG's data (is damaged|ends early)"):
            make_seekable(bad, "bad.png")


def test_a_block_whose_first_row_needs_the_one_above_is_told():
    row = b"\2" + bytes(range(30))  # filter 2: what is above is added
    inner, parts = zlib.compressobj(), []
    for flush in (zlib.Z_FULL_FLUSH, zlib.Z_FINISH):
        parts.append(inner.compress(row * 8) + inner.flush(flush))
    data = png(8, 2, [], [(b"IDAT", part) for part in parts], size=(10, 16))
    first = data.index(b"IDAT") - 4
    starts = array("I", [first, first + 12 + len(parts[0]), first + 24 + sum(map(len, parts))])
    image = EncodedImage(data, "x", index=RowIndex(len(data), 8, starts))
    assert np.array_equal(image.decode_rows(8), pixels(data)[:8])
    with pytest.raises(DataError, match=r"x: .* does not fit the image: row 8 needs the one above it"):
        image.decode_rows(16, 8)


def test_without_jpegtran_the_error_names_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    told = "--seekable needs the program jpegtran for JPEG files: install libjpeg-turbo"
    with pytest.raises(OptionError, match=told):
        make_seekable(encode(any_image(64, 64), ".jpg"), "x")
    assert make_seekable(encode(any_image(200, 300)), "x").how == "PNG"


FILES = {"a.png": (240, 200), "b.png": (260, 130), "small.png": (20, 20)}
if shutil.which("jpegtran"):
    FILES |= {"c.jpg": (200, 150), "progressive.jpg": (200, 150), "odd.webp": (70, 50)}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("seekable") / "data"
    for number, (name, size) in enumerate(FILES.items()):
        options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if name == "progressive.jpg" else []
        images = [encode(any_image(*size, seed), "." + name.split(".")[1], *options) for seed in (number, number + 50)]
        write_pair(root, "drs", name, *images)
    return root


def build(root, phase="train", kind="lmdb", **kwargs):
    return data_set(root, phase, kind, **{"gt_size": 48, "use_hflip": True, "use_rot": True} | kwargs)


@pytest.fixture(scope="module")
def output(source):
    return make_lmdb(source, source.with_name("out"), "--seekable")


def same(one, other):
    assert len(one) == len(other) == len(FILES)
    draws = [SampleIndex(draw % len(one), draw) for draw in range(4 * len(one))]
    assert same_pixels([one[draw] for draw in draws], [other[draw] for draw in draws])


def test_crops_are_those_of_the_folder_and_of_whole_images_in_workers_too(source, tmp_path, capsys):
    output = make_lmdb(source, tmp_path / "out", "--seekable", "--verify")
    text = capsys.readouterr().out
    assert f"{2 * len(FILES)} entries verified, all decode and agree" in text
    assert "  4 PNG\n" in text and "  2 kept: one block of rows\n" in text
    assert "c.jpg" not in FILES or "  2 JPEG\n  2 JPEG (was progressive, or had other" in text
    data = build(output)
    same(data, build(source, kind="disk"))
    same(build(output, decode_region=False), build(source, kind="disk"))
    assert same_pixels(build(output, "val"), build(source, "val", "disk"))
    indexes = [read_seekable(f"{output}/drs/lq.lmdb", entry.key)[1] for entry in read_meta(f"{output}/drs/lq.lmdb")]
    assert sum(index is not None for index in indexes) == (4 if "c.jpg" in FILES else 2)
    indices = [SampleIndex(i % len(data), i) for i in range(6)]
    loader = DataLoader(data, 1, sampler=indices, num_workers=1)
    assert all(torch.equal(batch["lq"][0], data[i]["lq"]) for i, batch in zip(indices, loader, strict=True))


def test_the_toolbox_and_mmengine_read_the_same_entries(output, source, tmp_path):
    plain = make_lmdb(source, tmp_path / "plain")
    assert (output / "drs/lq.lmdb/meta_info.txt").read_text() == (plain / "drs/lq.lmdb/meta_info.txt").read_text()
    copy = shutil.copytree(output, tmp_path / "copy")  # none may be opened twice in a process
    stock = stock_data_set(copy / "drs/lq.lmdb", copy / "drs/gt.lmdb", kind="lmdb")
    found = sorted((stock[i] for i in range(len(FILES))), key=lambda item: item["lq_path"])
    assert same_pixels(found, build(source, "val", "disk"))
    backend = {"type": "mmengine", "backend": "lmdb", "db_path": f"{output}/{{rain_type}}/{{side}}.lmdb"}
    same(build(None, manifest=f"{output}/manifest.jsonl", io_backend=backend), build(source, kind="disk"))


def test_pairs_are_added_and_other_recipes_refused(output, source, tmp_path, capsys):
    source, output = (shutil.copytree(folder, tmp_path / folder.name) for folder in (source, output))

    def made(*arguments):
        capsys.readouterr()
        make_lmdb(source, output, *arguments)
        return capsys.readouterr().out

    write_pair(source, "drs", "z.png", encode(any_image(250, 140, 7)), encode(any_image(250, 140, 8)))
    text = made("--seekable", "--verify")
    assert f"{len(FILES) + 1} pairs" in text and "of 2 images that were added" in text
    assert len(build(output)) == len(FILES) + 1
    with pytest.raises(DataError, match="exists already and was made from other data or with other options"):
        made()
    assert "that were added" not in made("--seekable")


def moved(data, number, by):
    index = RowIndex.from_bytes(data, "x")
    starts = array("I", index.starts)
    starts[number] += by
    return replace(index, starts=starts).to_bytes()


FAULTS = {
    "cut short": (lambda data: data[:-3], "is damaged: found 37 bytes, expected 40"),
    "empty": (lambda data: b"", "is damaged: 0 bytes without its header"),
    "a byte": (lambda data: data[:25] + b"\xff" + data[26:], "is damaged: its checksum is wrong"),
    "newer": (lambda data: data[:4] + b"\2" + data[5:], "has version 2; this release reads version 1"),
    "of other bytes": (
        lambda data: replace(RowIndex.from_bytes(data, "x"), size=77).to_bytes(), "has .* the index is one of 77",
    ),
    "of other rows": (
        lambda data: replace(RowIndex.from_bytes(data, "x"), rows=8).to_bytes(), "it is of 4 blocks of 8 rows",
    ),
    "out of order": (lambda data: moved(data, 3, 1 << 30), "its positions are not in order"),
    "beyond the end": (lambda data: moved(data, 4, 1 << 30), "its positions are not in order"),
    "moved": (lambda data: moved(moved(data, 0, 1), 1, 1), "no chunk of image data at byte|no JPEG or PNG|damaged"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_index_is_told_and_whole_images_are_read_without_it(output, source, tmp_path, fault):
    output = shutil.copytree(output, tmp_path / "out")
    change, text = FAULTS[fault]
    for side in ("lq", "gt"):
        with lmdb.open(f"{output}/drs/{side}.lmdb", max_dbs=1) as environment:
            table, key = environment.open_db(ROWS), b"drs/input/a"
            with environment.begin(write=True) as transaction:
                transaction.put(key, change(transaction.get(key, db=table)), db=table)
    with pytest.raises(DataError, match=rf"lq\.lmdb/drs/input/a: .*({text}).*decode_region: false") as error:
        for draw in range(40):
            build(output)[SampleIndex(0, draw)]
    assert "\n" not in str(error.value)
    same(build(output, decode_region=False), build(source, kind="disk"))
    assert build(output, "val")[0]["lq"].shape[1:] == (240, 200)
    with pytest.raises(DataError, match=f"(?s)2 problem.*{text}"):
        create_lmdb(["--output", str(output), "--verify", "--workers", "1"])
