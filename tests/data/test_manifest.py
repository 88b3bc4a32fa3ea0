"""The manifest: round trip, every kind of wrong line, atomic writing."""

import json

import pytest

from unirain_plugin.data.manifest import ManifestRecord, ManifestWriter, path_from, read_manifest, write_manifest
from unirain_plugin.errors import DataError

FULL = ManifestRecord(
    lq="drs/input/ä b.png", gt="drs/target/ä b.png", rain_type="drs", source="rain13k", size=(480, 640), keep=True,
    votes={"internvl": True, "llava": None, "mobilevlm": False},
    retrieved=({"id": "r1", "s_txt": 0.5, "s_vis": 0.25, "s_perc": 0.125},), reason="2 of 3",
)  # fmt: skip


def test_records_come_back_as_they_were(tmp_path):
    records = [FULL, ManifestRecord("a.png", "b.png", "snow"), ManifestRecord("\udcff.png", "c.png", "nrd", keep=False)]
    assert write_manifest(tmp_path / "sub" / "m.jsonl", records) == 3
    assert list(read_manifest(tmp_path / "sub" / "m.jsonl")) == records
    write_manifest(tmp_path / "m.jsonl", [ManifestRecord("a.png", "b.png", "drs", size=(4, 5))])
    found = json.loads((tmp_path / "m.jsonl").read_text())
    assert found == {"lq": "a.png", "gt": "b.png", "rain_type": "drs", "size": [4, 5]}
    (tmp_path / "plain").touch()
    assert (tmp_path / "m.jsonl").stat().st_mode == (tmp_path / "plain").stat().st_mode


GOOD = '{"lq": "a.png", "gt": "b.png", "rain_type": "drs"}\n'


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ('{"lq": "a.png", "gt"', "expected a JSON object, found .* at column"),
        ("\n", "found a blank line"),
        ("[1, 2]\n", r"expected a JSON object such as .*lq.*, found \[1, 2\]"),
        ('{"lq": "a.png", "rain_type": "drs"}', "missing key 'gt'"),
        ('{"lq": "a.png", "gt": "b.png"}', "missing key 'rain_type'"),
        (GOOD[:-2] + ', "raintype": "drs"}', "unknown key 'raintype'. Did you mean 'rain_type'"),
        (GOOD[:-2] + ', "lq": "c.png"}', "key 'lq' is given twice"),
        ('{"lq": "", "gt": "b.png", "rain_type": "drs"}', 'lq: expected a path or LMDB key, found ""'),
        ('{"lq": null, "gt": "b.png", "rain_type": "drs"}', "lq: expected a path or LMDB key, found null"),
        (
            '{"lq": "a", "gt": "b", "rain_type": "DRS"}',
            'rain_type: expected a lower-case name such as drs, found "DRS"',
        ),
        ('{"lq": "a", "gt": "b", "rain_type": 0}', "rain_type: expected a lower-case name"),
        (GOOD[:-2] + ', "size": [480]}', r"size: expected \[height, width\] in pixels, found \[480\]"),
        (GOOD[:-2] + ', "size": [0, 2]}', "size: expected"),
        (GOOD[:-2] + ', "size": [2, 4294967296]}', "size: expected"),
        (GOOD[:-2] + ', "size": [true, 2]}', "size: expected"),
        (GOOD[:-2] + ', "keep": "yes"}', 'keep: expected true or false, found "yes"'),
        (GOOD[:-2] + ', "votes": {"a": 1}}', "votes: expected voters with true, false or null"),
        (GOOD[:-2] + ', "retrieved": [{"s_vis": 1}]}', "retrieved: expected a list of objects with id"),
        (GOOD[:-2] + ', "retrieved": [{"id": "r", "s_viz": 1}]}', "retrieved: expected"),
        (GOOD[:-2] + ', "retrieved": [{"id": "r", "s_vis": NaN}]}', "NaN is no JSON number"),
        (GOOD[:-2] + ', "retrieved": [{"id": "r", "s_vis": 1e999}]}', "retrieved: expected"),
        ('{"lq": "a\\u0000", "gt": "b.png", "rain_type": "drs"}', "lq: expected a path or LMDB key"),
        ('{"lq": "a\\ud800", "gt": "b.png", "rain_type": "drs"}', "lq: expected a path or LMDB key"),
        ('{"lq": "a", "gt": "b", "rain_type": "drs", "source": "\\udbff"}', "source: expected text"),
        (GOOD[:-2] + ', "reason": 3}', "reason: expected text, found 3"),
    ],
)
def test_wrong_lines_are_named_by_file_and_number(tmp_path, line, text):
    path = tmp_path / "m.jsonl"
    path.write_text(GOOD * 2 + line)
    records = read_manifest(path)
    assert next(records) == next(records)
    with pytest.raises(DataError, match=f"(?s)m.jsonl:3: .*{text}"):
        next(records)


def test_files_that_are_no_manifest(tmp_path):
    for content, text in (
        (None, r"m.jsonl: the manifest cannot be read"),
        (GOOD.encode() + b'{"lq": "\xff"}\n', r"m.jsonl:2: not UTF-8"),
        (b"", r"m.jsonl: the manifest is empty"),
    ):
        if content is not None:
            (tmp_path / "m.jsonl").write_bytes(content)
        with pytest.raises(DataError, match=text):
            list(read_manifest(tmp_path / "m.jsonl"))


def test_readers_see_the_whole_and_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "m.jsonl"
    with ManifestWriter(path) as writer:
        writer.write(FULL)
        assert not path.exists()
    with pytest.raises(DataError, match="record 2: rain_type"), ManifestWriter(path) as writer:
        writer.write(FULL)
        writer.write(ManifestRecord("a", "b", "Not A Type"))

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(DataError, match=r"m\.jsonl: cannot be written: No space left"):
            write_manifest(path, [FULL, FULL])
    assert list(read_manifest(path)) == [FULL]
    assert [p.name for p in tmp_path.iterdir()] == ["m.jsonl"]


def test_paths_lead_out_of_a_linked_folder(tmp_path):
    (tmp_path / "far/deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far/deep")
    (tmp_path / "a.png").symlink_to("elsewhere.png")
    assert path_from(tmp_path / "link", tmp_path / "a.png") == "../../a.png"
    assert path_from(tmp_path, tmp_path / "link/b.png") == "far/deep/b.png"
