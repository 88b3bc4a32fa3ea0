"""The journal survives what a kill leaves."""

import json

import pytest

from unirain_plugin.support.journal import Journal


def test_last_record_of_a_key_counts(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(("result", "a"), {"value": 1})
        journal.add(("result", "a"), {"value": float("inf")})
        assert journal.get("result", "a")["value"] == float("inf")
    with Journal(path) as journal:
        assert journal.get("result", "a")["value"] == float("inf")
        assert journal.get("result", "b") is None
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("torn", [b'{"key": ["b"], "va', b'{"key": ["b"]', b"\xff\xfe\x00", b"[1, 2]", b"{}"])
def test_torn_lines_are_passed_over(tmp_path, torn):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(("a",), {"value": 1})
    with path.open("ab") as file:
        file.write(torn)
    with Journal(path) as journal:
        assert journal.get("a")["value"] == 1 and journal.get("b") is None
        journal.add(("c",), {"value": 3})
    with Journal(path) as journal:
        assert (journal.get("a")["value"], journal.get("c")["value"]) == (1, 3)


def test_every_cut_of_the_file_can_be_read(tmp_path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        for name in "xyz":
            journal.add((name,), {"value": name})
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with Journal(path) as journal:
            known = [name for name in "xyz" if journal.get(name)]
        assert known == [json.loads(line)["key"][0] for line in data[:length].splitlines() if line.endswith(b"}")]
