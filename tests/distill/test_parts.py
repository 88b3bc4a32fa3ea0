"""Registries, captioners, embedders and text encoders."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest
from rain_images import photographs

from unirain_plugin.distill.describers.base import Embedder, Scene
from unirain_plugin.distill.options import load_options, parse_options
from unirain_plugin.distill.records import DistillError
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, VOTER, build_part, load_parts
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.support.resources import option_file
from unirain_plugin.support.spec import between

load_parts()


@pytest.mark.parametrize(
    "registry,names",
    [
        (CAPTIONER, {"attributes", "sidecar", "coca", "vlm"}),
        (EMBEDDER, {"open_clip", "statistics"}),
        (VOTER, {"realism", "pair_consistency", "gt_quality", "vlm"}),
        (TEXT_ENCODER, {"open_clip", "attributes", "sentence_transformers"}),
    ],
)
def test_registries_are_basicsr_s_and_filled(registry, names):
    from basicsr.utils.registry import Registry

    assert isinstance(registry, Registry) and names <= set(registry.keys())
    assert all(registry.get(name) is not None for name in names)


def test_what_is_no_part_is_refused_when_it_registers():
    with pytest.raises(
        TypeError, match="Bare is registered as voter, and no class derived from the base of such parts"
    ):
        VOTER.register()(type("Bare", (), {}))
    assert "Bare" not in VOTER


def test_a_part_of_ones_own_may_be_a_dataclass_whose_fields_are_checked(monkeypatch):
    monkeypatch.setattr(EMBEDDER, "_obj_map", dict(EMBEDDER._obj_map))

    @EMBEDDER.register()
    @dataclass
    class Flat(Embedder):
        level: Annotated[float, between(0, 1)] = 0.5
        mode: Literal["mean", "median"] = "mean"

        def embed(self, images):
            return np.full((len(images), 1), self.level, np.float32)

    assert build_part(EMBEDDER, {"type": "Flat", "level": 1}, "e").embed([None]).tolist() == [[1]]
    for keys, words in (
        ({"level": 2}, "level: expected a number from 0 to 1, got 2"),
        ({"mode": "max"}, "mode: expected one of mean, median, got 'max'"),
    ):
        with pytest.raises(OptionError, match=f"^e: {words}"):
            build_part(EMBEDDER, {"type": "Flat", **keys}, "e")


@pytest.mark.parametrize(
    "change,text",
    [
        ({"retrieval": {"k1": 5, "k2": 6, "k3": 1}}, "k1 ≥ k2 ≥ k3 ≥ 1, got 5, 6, 1"),
        ({"retrieval": {"k3": 0}}, "k1 ≥ k2 ≥ k3 ≥ 1"),
        ({"retrieval": {"working_size": 8}}, "working_size: found 8; expected an integer ≥ 11 .SSIM"),
        ({"retrieval": {"working_sizes": 5}}, "Did you mean 'working_size'"),
        ({"engine": {"type": "dask"}}, "one of local, ray"),
        ({"engine": {"workers": -1}}, "workers: found -1; expected an integer ≥ 0"),
        ({"candidates": {}}, "exactly one of `manifest` and `dataroot`"),
        ({"unreadable": "skip"}, "one of stop, reject"),
        ({"shard_size": 0}, "shard_size: found 0; expected an integer ≥ 1"),
        ({"voters": []}, "voters: found the list .*not empty"),
        ({"refrences": {}}, "Did you mean 'references'"),
        ({"embedder": {"type": "statistic"}}, r"t: embedder: unknown type 'statistic'\. Did you mean 'statistics'\?"),
        (
            {"text_encoder": {"type": "open_clip", "modle": "x"}},
            r"text_encoder: unknown key 'modle'\. Did you mean 'model'",
        ),
        ({"captioner": {"type": "sidecar"}}, r"captioner: 'sidecar' needs the key 'files'"),
        ({"voters": [{"name": "x"}]}, r"voters\[0\]: expected a mapping with a `type`"),
        ({"voters": [{"type": "HashVoter", "name": "a"}] * 2}, "two are named alike"),
        ({"imports": ["no_such_module"]}, "cannot import 'no_such_module'"),
    ],
)
def test_option_errors(settings, change, text):
    with pytest.raises(OptionError, match=text):
        parse_options({**settings, **change}, "t")


@pytest.mark.parametrize("name", ["offline", "gpu_vlm"])
def test_shipped_option_files_are_valid(name):
    assert load_options(option_file(f"distill/{name}.yml")).name == name


def test_attributes_say_what_is_in_the_image(rendered):
    from unirain_plugin.distill.records import read_rgb

    captioner = build_part(CAPTIONER, {"type": "attributes"}, "captioner")
    texts = {}
    for rain_type in ("drs", "drd", "nrs", "nrd"):
        paths = sorted((rendered / "real" / rain_type).glob("*.png"))
        texts[rain_type] = captioner.caption([Scene(p.name, p, read_rgb(p)) for p in paths])
    night = [sum("nighttime" in text for text in texts[t]) / len(texts[t]) for t in ("drs", "drd", "nrs", "nrd")]
    assert max(night[:2]) < 0.5 < min(night[2:])
    assert texts["drs"] == captioner.caption(  # one at a time: the same
        [Scene(p.name, p, read_rgb(p)) for p in sorted((rendered / "real" / "drs").glob("*.png"))]
    )


def test_streaks_and_their_direction_are_measured():
    import cv2

    from unirain_plugin.distill.describers.rain_cues import rain_cues

    rng = np.random.default_rng(0)
    base = cv2.GaussianBlur(photographs(256)["coffee"], (0, 0), 3)
    lines = base.copy()
    for x, y in rng.integers(0, 256, (250, 2)).tolist():  # leaning right: up by 26, right by 11: 67 degrees
        cv2.line(lines, (x, y), (x + 11, y - 26), (235, 235, 235), 1)
    cues = rain_cues(lines)
    assert cues.streaks > 0.8 > 0.5 > rain_cues(base).streaks
    assert cues.angle == 66


def test_text_attributes_read_numbers_and_words_and_stay_within_bounds():
    encoder = build_part(TEXT_ENCODER, {"type": "attributes"}, "text_encoder")
    day_streaks, day_drops, night_streaks, again = encoder.encode([
        "a car driving in daylight with heavy rain streaks",
        "a bright day seen through a window with rain drops",
        "a street at night with rain streaks in the light of lamps",
        "a truck driving in daylight with heavy rain streaks",
    ])  # fmt: skip
    assert encoder.encode(["x"]).dtype == np.float32
    near = np.linalg.norm(day_streaks - again)
    assert near < np.linalg.norm(day_streaks - day_drops) and near < np.linalg.norm(day_streaks - night_streaks)
    evil = ["night 99999999999999999999999999, drops 1e999 drop size 7777777", "", "\0 ; keep: true}] \u2028 ☔" * 500]
    rows = encoder.encode(evil)
    assert np.isfinite(rows).all() and np.abs(rows).max() <= 4


def test_statistics_embedder_is_deterministic_and_independent_of_the_batch():
    embedder = build_part(EMBEDDER, {"type": "statistics"}, "embedder")
    images = [*photographs(96).values(), np.zeros((40, 300, 3), np.uint8), np.full((2000, 30, 3), 255, np.uint8)]
    rows = embedder.embed(images)
    assert rows.dtype == np.float32 and np.isfinite(rows).all()
    for row, image in zip(rows, images, strict=True):
        np.testing.assert_array_equal(embedder.embed([image.copy()])[0], row)


def test_sidecar_reads_csv_and_jsonl(tmp_path):
    (tmp_path / "a.csv").write_text('image,caption,score\na.png,"rain, at night",1\n')
    (tmp_path / "b.jsonl").write_text(json.dumps({"id": "b", "caption": "drops\n on glass"}) + "\n")
    captioner = build_part(
        CAPTIONER, {"type": "sidecar", "files": [str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")]}, "c"
    )
    by_path = Scene("other", tmp_path / "a.png", None)
    assert captioner.caption([by_path, Scene("b", Path("x"), None)]) == ["rain, at night", "drops on glass"]
    with pytest.raises(Exception, match=r"b\.jsonl: no caption for the image 'c' \(x\)"):
        captioner.caption([Scene("c", Path("x"), None)])
    stamp = captioner.fingerprint()
    (tmp_path / "b.jsonl").write_text('{"id": "b", "caption": "something else"}\n')
    assert captioner.fingerprint() != stamp


def test_sidecar_tells_equal_names_in_two_folders_apart(tmp_path):
    files = []
    for folder in ("refs", "cand"):
        (tmp_path / folder).mkdir()
        files.append(str(tmp_path / folder / "blip.csv"))
        Path(files[-1]).write_text(f"image,caption\ndrs/1.png,of {folder}\n")
    captioner = build_part(CAPTIONER, {"type": "sidecar", "files": files}, "c")
    scenes = [Scene("drs/1.png", tmp_path / folder / "drs/1.png", None) for folder in ("refs", "cand")]
    assert captioner.caption(scenes) == ["of refs", "of cand"]
    with pytest.raises(DistillError, match=r"2 different captions for the image 'drs/1\.png'"):
        captioner.caption([Scene("drs/1.png", tmp_path / "other/drs/1.png", None)])


@pytest.mark.parametrize(
    "name,text,message",
    [
        ("x.csv", "image,caption\na.png,\n", r"x\.csv:2: expected a `caption`"),
        ("x.jsonl", '{"id": "a", "caption": "b"}\n{"id"', r"x\.jsonl:2: expected a JSON object, found .* at column"),
        ("x.jsonl", '["a"]\n', r"x\.jsonl:1: expected a JSON object"),
        ("x.csv", None, "cannot be read"),
    ],
)
def test_sidecar_errors(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    captioner = build_part(CAPTIONER, {"type": "sidecar", "files": str(tmp_path / name)}, "c")
    with pytest.raises(DataError, match=message):
        captioner.check()
    with pytest.raises(OptionError, match=r"ending in \.csv or \.jsonl"):
        build_part(CAPTIONER, {"type": "sidecar", "files": "captions.txt"}, "c")


def test_missing_package_is_named_with_its_pip_name(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(OptionError, match="pip install sentence-transformers"):
        build_part(TEXT_ENCODER, {"type": "sentence_transformers"}, "t").check()
    with pytest.raises(OptionError, match="pip install open_clip_torch"):
        build_part(EMBEDDER, {"type": "open_clip"}, "e").check()
