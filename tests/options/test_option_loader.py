"""The safe YAML loader."""

import pytest

from unirain_plugin.errors import OptionError
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.support.spec import number_meant


def read(text: str | bytes, folder):
    file = folder / "options.yml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_option_file(file)


def message_of(text: str | bytes, folder) -> str:
    with pytest.raises(OptionError) as caught:
        read(text, folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the option file is empty"),
        ("# a comment\n", "the option file is empty"),
        ("- a\n- b\n", "options.yml:1: expected a mapping ('key: value' lines) at the top, found a list"),
        ("hello", "found a single value"),
        ("a: 1\n\tb: 2\n", "options.yml:2, column 1: not valid YAML"),
        ("a:\n\t- 1\n", "holds a tab; indent with spaces"),
        ("a: [1, 2\nb: 3\n", "not valid YAML"),
        ("a: [1, 2\n", "options.yml:2, column 1: not valid YAML: while parsing a flow sequence"),
        ('a: "open\n', "options.yml:2, column 1: not valid YAML: while scanning a quoted scalar"),
        ("a: b: c\n", "1, column 5: not valid YAML: mapping values are not allowed here. Check the indentation"),
        ("a: *nothing\n", "undefined alias"),
        ("a: 1\n---\nb: 2\n", "expected a single document"),
        ("a: 1\x00\n", "not valid YAML"),
        (b"a: \xff\xfe\n", "is not UTF-8 text (byte 3)"),
        ("a: !!int x\n", "options.yml:1: a: 'x' is no int"),
        ("a: !mine 1\n", "the tag '!mine' is not allowed"),
        ("a: !!set {b, c}\n", "the tag '!!set' is not allowed"),
        ("a: &x [*x]\n", "an alias refers to the section it stands in"),
        ("a:\n  b: 1\n  c: 2\n  b: 3\n", "options.yml:4: a.b: the key is given twice, first in line 2; keep one"),
        ("{[1]: 2}\n", "not text in YAML"),
        ("<<: 3\n", "'<<' must be given a section"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_unreadable(text, says, tmp_path):
    assert says in message_of(text, tmp_path)


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "train_UniRain.yml").touch()
    with pytest.raises(OptionError, match=r"no such option file\. Did you mean '.*train_UniRain\.yml'\?"):
        read_option_file(tmp_path / "train_UniRian.yml")
    with pytest.raises(OptionError, match="is a folder; expected an option file"):
        read_option_file(tmp_path)


def test_object_tags_do_not_run_and_nested_aliases_cannot_fill_the_memory(tmp_path):
    for tag, value in (("object/apply:", f" ['touch {tmp_path}/ran']"), ("object/new:", " [x]"), ("name:", "")):
        assert f"the tag '!!python/{tag}os.system' is not allowed" in message_of(
            f"name: !!python/{tag}os.system{value}\n", tmp_path
        )
    assert not (tmp_path / "ran").exists()
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]  # stands for 10¹⁰ numbers
    assert "are aliases nested?" in message_of("\n".join(lines), tmp_path)


def test_aliases_are_copies_and_merges_work(tmp_path):
    text = "base: &base {type: L1Loss, weight: 1}\na: *base\nb:\n  <<: *base\n  weight: 2\n"
    text += "c: {<<: [{x: 1}, {x: 2, y: 3}]}\n"
    opt = read(text, tmp_path).opt
    assert opt["a"] == opt["base"]
    assert opt["a"] is not opt["base"]  # the toolbox pops from sections
    assert opt["b"] == {"type": "L1Loss", "weight": 2}
    assert opt["c"] == {"x": 1, "y": 3}


def test_plain_values_byte_order_marks_windows_lines_and_numbers_of_lines(tmp_path):
    text = "a: 1\nb: 2.5\nc: true\nd: ~\ne: text\nf: !!float 1e-4\ng: 1.0e-4\nh: '1e-4'\n"
    text += "i: 2024-05-01\nj: [1, x]\nk:\nl: .5\n"
    opt = read(text, tmp_path).opt
    assert opt == {
        "a": 1, "b": 2.5, "c": True, "d": None, "e": "text", "f": 1e-4, "g": 1e-4, "h": "1e-4", "i": "2024-05-01",
        "j": [1, "x"], "k": None, "l": 0.5,
    }  # fmt: skip
    assert read(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", tmp_path).opt == {"a": 1, "b": 2}
    lines = read("a: 1\nb:\n  c:\n    - 1\n    - 2\n", tmp_path).lines
    assert [lines[path] for path in [("a",), ("b",), ("b", "c"), ("b", "c", 1)]] == [1, 2, 3, 5]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1e-4", "1.0e-4"), ("1E5", "1.0e+5"), ("-2.5e3", "-2.5e+3"), (".5e-1", "0.5e-1"), ("3.e+2", "3.e+2"),
        *dict.fromkeys(["1e", "e5", "0x1e4", "1e-4x", "v1e4", "", "12"]).items(),
    ],
)  # fmt: skip
def test_number_meant_is_read_as_that_number(text, meant, tmp_path):
    assert number_meant(text) == meant
    assert meant is None or read(f"a: {meant}\n", tmp_path).opt["a"] == float(text)
