"""Option files of comparisons: read strictly."""

import shutil
from pathlib import Path

import pytest

from unirain_plugin import __main__ as cli
from unirain_plugin.compare.options import load_options, parse_options
from unirain_plugin.errors import OptionError

FILES = sorted((Path(__file__).parents[2] / "options" / "compare").glob("*.yml"))
MODEL = {"name": "a", "weights": "default"}
SET = {"name": "s", "dataroot": "x"}


def parse(**changes):
    return parse_options({"name": "c", "models": [MODEL], "test_sets": [SET], **changes}, "c.yml")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_shipped_files_are_valid(path):
    assert load_options(path).name == path.stem


def test_defaults_and_manifests_with_a_dataroot_or_others_beside_them():
    options = parse()
    assert options.rows == ["input", "a"]
    assert options.output_folder == Path("results/compare/c")
    assert parse(include_input=False).rows == ["a"]
    options = parse(test_sets=[{"name": "m", "manifest": "m.jsonl", "dataroot": "pictures", "rain_types": ["drs"]}])
    assert options.test_sets[0].manifest == Path("m.jsonl")
    options = parse(test_sets=[{"name": "m", "manifest": ["m.jsonl", "n.jsonl"]}])
    assert options.test_sets[0].manifest == [Path("m.jsonl"), Path("n.jsonl")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrik": ["psnr"]}, r"c\.yml\.metrik: unknown key\. Did you mean 'metrics'\?"),
        ({"models": [{**MODEL, "wieghts": "x"}]}, r"models\[0\]\.wieghts: unknown key\. Did you mean 'weights'\?"),
        ({"test_sets": [{**SET, "datarot": "x"}]}, r"test_sets\[0\]\.datarot: unknown key"),
        ({"cost": {"threads": 0}}, "cost\\.threads: found 0; expected an integer ≥ 1"),
        ({"cost": {"round": 3}}, r"cost\.round: unknown key\. Did you mean 'rounds'\?"),
        ({"models": []}, "models: found the list .*; expected a list, each a section .*not empty"),
        ({"models": [{**MODEL, "name": "Ab"}, {**MODEL, "name": "AB"}]}, r"models: 'Ab' is there twice"),
        ({"models": [{"name": "input", "weights": "x"}]}, "'input' stands for the rainy input"),
        ({"models": [{"name": "a/b", "weights": "x"}]}, "expected a text .* that can name a folder: no slashes"),
        ({"models": [{"name": "a:b", "weights": "x"}]}, r"and without \\ < > : \" \| \? \* or a leading dot"),
        ({"models": [{"name": "a"}]}, "expected `weights`, `network`"),
        ({"models": [{"name": "a", "network": {"type": "EDSR"}}]}, "would be scored with random weights"),
        ({"models": [{**MODEL, "network": {"dim": 8}}]}, "network: expected a `type`"),
        ({"models": [{**MODEL, "untrained": True}]}, "`untrained: true` is for a network without weights"),
        ({"models": [{**MODEL, "results": "x"}]}, "takes neither `weights`, `network` nor `untrained`"),
        ({"models": [{**MODEL, "suffix": "_x"}]}, r"models\[0\]\.suffix: `suffix` goes with `results`"),
        ({"models": [{**MODEL, "pattern": "{stem}"}]}, "`pattern` goes with `results`"),
        ({"models": [{"name": "a", "results": "x", "tile": 0}]}, "`tile` goes with a network, not `results`"),
        ({"models": [{"name": "a", "results": "x", "strict_load": False}]}, "`strict_load` goes with a network"),
        ({"models": [{"name": "a", "results": "x", "sizes": []}]}, "`sizes` goes with a network"),
        ({"models": [{"name": "a", "results": "x", "pattern": "{type}/{stem}.png"}]}, r"pattern: unknown \{type\}"),
        ({"models": [{"name": "a", "results": "x", "pattern": "{stem"}]}, "pattern: '{stem' cannot be filled in"),
        ({"test_sets": [{"name": "s"}]}, "give exactly one of `lq`, `dataroot`, `manifest` and `synthesize`"),
        (
            {"test_sets": [{"name": "s", "synthesize": {"rain_types": ["fog"]}}]},
            r"test_sets\[0\]\.synthesize\.rain_types: 'fog' is unknown; expected some of drs",
        ),
        ({"test_sets": [{**SET, "lq": "y"}]}, "give exactly one of"),
        ({"test_sets": [{**SET, "gt": "y"}]}, "`gt` goes with `lq`"),
        ({"test_sets": [{**SET, "rejected": True}]}, "`rejected` goes with `manifest`"),
        ({"test_sets": [{**SET, "limit": 0}]}, "limit: found 0; expected an integer ≥ 1"),
        ({"test_sets": [{"name": "s", "manifest": []}]}, r"manifest: found the list \[\]; expected a path or a list"),
        ({"metrics": ["pnsr"]}, r"metrics\[0\]: unknown metric 'pnsr'\. Did you mean 'psnr'\?"),
        ({"metrics": ["psnr_y"], "protocol": "y-matlab"}, "protocol: nothing follows it: `metrics` holds neither"),
        ({"reference": "inputt"}, r"no model 'inputt'; found input, a\. Did you mean 'input'\?"),
        ({"bootstrap": {"confidence": 95}}, r"confidence: found 95; expected a number ≥ 0\.5 and < 1"),
        ({"figure": {"error_scale": 0}}, "error_scale: found 0; expected a number > 0 and ≤ 1"),
        ({"tile": "big"}, r"tile: found .*big.*; expected an integer"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:24],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(OptionError, match=message):
        parse(**changes)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("tile: 3", "tile: got 3; expected 0"),
        ("precision: fp61", "precision: got 'fp61'"),
        ("device: gpu", "device: got 'gpu'"),
        ("device: cpu\nprecision: fp16", "precision: fp16 is for accelerators"),
    ],
)
def test_a_dry_run_finds_settings_that_no_network_can_have(tmp_path, capsys, lines, message):
    path = tmp_path / "c.yml"
    path.write_text("name: c\nmodels: [{name: a, weights: default}]\ntest_sets: [{name: s, lq: x}]\n" + lines)
    assert cli.main(["compare", "-opt", str(path), "--dry-run"]) == 2
    assert message in capsys.readouterr().err


def test_public_sets_are_compared_where_they_lie(rainrag_root, tmp_path, monkeypatch, capsys):
    """Folders NAME/input and NAME/target; a set that lacks a partner is named with it."""
    opt = str(FILES[0].with_name("public_sets.yml"))
    options = load_options(opt)
    assert options.metric_names == ["psnr", "ssim", "psnr@y-matlab", "ssim@y-matlab"]
    for test_set in options.test_sets:
        shutil.copytree(rainrag_root / "drs", tmp_path / "datasets/public" / test_set.name)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compare", "-opt", opt, "--dry-run"]) == 0
    assert "raindrop: 3 images" in capsys.readouterr().out
    (tmp_path / "datasets/public/raindrop/target/001.png").unlink()
    assert cli.main(["compare", "-opt", opt, "--dry-run"]) == 2
    assert "test set 'raindrop': 1 of 3 images of datasets/public/raindrop/input have no" in capsys.readouterr().err
