"""Finished images find their test images."""

import pytest

from unirain_plugin.compare.options import ModelOptions
from unirain_plugin.compare.samples import Sample, Source, match_finished
from unirain_plugin.errors import DataError, did_you_mean


def sample(image, rain_type=None, test_set="set"):
    return Sample(test_set, image, rain_type, Source(f"{image}.png"), None)


def match(tmp_path, files, samples, **keys):
    for name in files:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = match_finished(ModelOptions("m", results=tmp_path, **keys), samples)
    sources = {key: source.path.removeprefix(f"{tmp_path}/") for key, source in found.sources.items()}
    return sources, found.problems, found.others


def test_by_stem_with_suffix_and_other_ending(tmp_path):
    files = ["deep/down/a_ours.jpg", "b_ours.png", "b.png", "notes.txt"]
    sources, problems, others = match(tmp_path, files, [sample("a"), sample("b")], suffix="_ours")
    assert sources == {("set", "a"): "deep/down/a_ours.jpg", ("set", "b"): "b_ours.png"}
    assert not problems and others == ["b.png"]


def test_folders_decide_between_equal_stems(tmp_path):
    samples = [sample("drs/0", "drs"), sample("nrd/0", "nrd"), sample("0", "nrd", "other")]
    files = ["set/drs/0.png", "set/nrd/0.png", "other/0.png"]
    sources, problems, _ = match(tmp_path, files, samples)
    assert list(sources.values()) == files and not problems


def test_one_file_is_not_the_result_of_two_images(tmp_path):
    samples = [sample("drs/0", "drs"), sample("nrd/0", "nrd")]
    sources, problems, _ = match(tmp_path, ["0.png"], samples)
    assert not sources and len(problems) == 2
    assert "could be its result or that of set/nrd/0" in problems["set", "drs/0"]
    sources, problems, _ = match(tmp_path / "other", ["drs/0.png"], samples)
    assert sources == {("set", "drs/0"): "drs/0.png"} and list(problems) == [("set", "nrd/0")]


def test_two_files_for_one_image_are_told_and_missing_ones_name_the_nearest(tmp_path):
    _, problems, _ = match(tmp_path, ["x/a.png", "y/a.png"], [sample("a")])
    assert "x/a.png and y/a.png" in problems["set", "a"] and "`pattern`" in problems["set", "a"]
    _, problems, others = match(tmp_path / "one", ["picture_1_x1.png"], [sample("picture_1")])
    assert "no image named 'picture_1'" in problems["set", "picture_1"]
    assert "Did you mean 'picture_1_x1'?" in problems["set", "picture_1"] and others == ["picture_1_x1.png"]
    told = did_you_mean("cafe\u0301", ["caf\u00e9"])  # they look alike
    assert told == " Did you mean 'caf\u00e9' (the same letters, coded otherwise in Unicode)?"


def test_pattern(tmp_path):
    samples = [sample("drs/0", "drs"), sample("drs/1", "drs")]
    sources, problems, others = match(
        tmp_path, ["drs-0-r.png", "drs-1.png"], samples, pattern="{rain_type}-{stem}-r.png"
    )
    assert sources == {("set", "drs/0"): "drs-0-r.png"} and others == ["drs-1.png"]
    assert "drs-1-r.png is missing. Did you mean" in problems["set", "drs/1"]


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        match(tmp_path, [], [sample("a")])
    with pytest.raises(DataError, match="no such folder of results"):
        match_finished(ModelOptions("m", results=tmp_path / "nowhere"), [sample("a")])
