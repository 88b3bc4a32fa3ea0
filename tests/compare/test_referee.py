"""Protocols in a whole comparison, and under which of them a claimed number is met."""

import csv
import json

import cv2
import numpy as np
import pytest
import yaml
from comparison_data import option_dict

from unirain_plugin import __main__ as cli
from unirain_plugin.compare.options import load_options
from unirain_plugin.compare.run import run
from unirain_plugin.errors import OptionError
from unirain_plugin.metrics.protocols import PROTOCOLS


@pytest.fixture()
def opt(rainrag_root, tmp_path):
    """An option file: finished images of two types, darker in drs than in nrd by other amounts, some of them."""
    for number, rain_type in enumerate(("drs", "nrd")):
        (tmp_path / "finished" / rain_type).mkdir(parents=True)
        for path in sorted((rainrag_root / rain_type / "target").iterdir())[: 3 - number]:
            image = cv2.imread(str(path)).astype(int) - np.array([9, 4, 2 + number])
            cv2.imwrite(str(tmp_path / "finished" / rain_type / path.name), image.clip(0).astype(np.uint8))
    for side in ("input", "target"):
        (rainrag_root / "nrd" / side / "002.png").unlink()
    done = [{"name": "done", "results": str(tmp_path / "finished")}]
    test_set = {"dataroot": str(rainrag_root), "rain_types": ["drs", "nrd"]}
    content = option_dict(tmp_path / "out", done, test_set, figure={"crop": 16, "images": ["s/drs/000"]})
    (tmp_path / "c.yml").write_text(yaml.safe_dump(content))
    return tmp_path / "c.yml"


def expected(opt, name, measure="psnr"):
    """Means of drs, nrd, both types, and all images, by the protocol itself."""
    types = []
    for rain_type in ("drs", "nrd"):
        values = []
        for path in sorted((opt.parent / "finished" / rain_type).iterdir()):
            target = next(opt.parent.rglob(f"{rain_type}/target/{path.name}"))
            sides = (cv2.imread(str(file))[..., ::-1] for file in (path, target))
            values.append(PROTOCOLS[name].value(measure, *sides))
        types.append(values)
    means = [float(np.mean(values)) for values in types]
    return [*means, float(np.mean(means)), float(np.mean([*types[0], *types[1]]))]


def scores(opt, capsys, *flags):
    """Runs the command; what it printed, and per_image.csv's rows of the model."""
    assert cli.main(["compare", "-opt", str(opt), "--quiet", *flags]) == 0
    with (opt.parent / "out/per_image.csv").open() as file:
        return capsys.readouterr().out, [row for row in csv.DictReader(file) if row["model"] == "done"]


def test_a_protocol_of_the_file_and_of_the_command_line(opt, capsys):
    content = yaml.safe_load(opt.read_text())
    opt.write_text(yaml.safe_dump({**content, "protocol": ["raindrop", "y-matlab"], "metrics": ["psnr"]}))
    for flags, first in (((), "raindrop"), (("--protocol", "rainrag", "y-matlab"), "rainrag")):
        out, rows = scores(opt, capsys, *flags)
        for column, name in (("psnr", first), ("psnr@y-matlab", "y-matlab")):
            assert np.mean([float(r[column]) for r in rows]) == pytest.approx(expected(opt, name)[3])
        folder = opt.parent / "out"
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["protocols"]["psnr"] == f"{first}: {PROTOCOLS[first]}"
        assert f"PSNR: protocol {first}, {PROTOCOLS[first]}. PSNR@y-matlab: protocol y-matlab, " in out
        for file in ("tables.md", "page.html", "tables.tex"):
            assert f"PSNR: protocol {first}, " in (folder / file).read_text()
    assert cli.main(["compare", "-opt", str(opt), "--protocol", "matlab"]) == 2
    assert "--protocol: unknown protocol 'matlab'. Did you mean 'y-matlab'? Known: rgb" in capsys.readouterr().err


def test_python_writes_what_the_command_writes(opt, capsys):
    scores(opt, capsys)
    folder = opt.parent / "out"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    for name in files.keys() - {"results.jsonl", ".lock"}:
        (folder / name).unlink()
    outcome = run(load_options(opt), bar=False)
    assert set(outcome.files) == {folder / name for name in files.keys() - {"results.jsonl", ".lock"}}
    assert all(p.read_bytes() == files[p.name] for p in outcome.files if p.name != "summary.json")  # it has the time


def answer(opt, capsys, claim):
    assert cli.main(["compare", "-opt", str(opt), "--quiet", "--which-protocol", claim]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("measure", ["psnr", "ssim"])
def test_a_claim_is_met_under_its_protocol(opt, capsys, name, measure):
    (opt.parent / "out").mkdir()
    (opt.parent / "out/tables.md").write_text("earlier")
    for group, value in zip(("DRS", "NRD", "average", "all images"), expected(opt, name, measure), strict=True):
        out = answer(opt, capsys, f"{value:.5f}")
        (verdict,) = (line for line in out.splitlines() if line.startswith("**"))
        assert f" {name} ({group})" in verdict
        assert all(f"| {other} | " in out and f"- {other}: {PROTOCOLS[other]}" in out for other in PROTOCOLS)
    assert (opt.parent / "out/tables.md").read_text() == "earlier"


def test_a_claim_that_nobody_meets_gets_the_nearest_and_digits_decide_what_meets_one(opt, capsys):
    drs = {name: expected(opt, name)[0] for name in PROTOCOLS}
    claim = f"{max(drs.values()) + 3:.1f}"
    out = answer(opt, capsys, claim)
    assert f"**{claim} is met under no protocol; nearest is {max(drs, key=drs.get)} (DRS), " in out
    assert f"{drs['rgb']:.2f} ({drs['rgb'] - float(claim):+.2f})" in out
    value = expected(opt, "rgb")[0]
    whole, exact = (answer(opt, capsys, text) for text in (f"{value:.0f}", f"{value:.5f}"))
    assert f"Claimed PSNR: {round(value)}, met from {round(value) - 0.5} to {round(value) + 0.5}." in whole
    verdicts = [text.split("**")[1] for text in (whole, exact)]
    met = [{name for name in PROTOCOLS if f" {name} (" in verdict} for verdict in verdicts]
    assert "rgb" in met[1] < met[0]


def test_two_folders_do(opt, capsys, monkeypatch):
    monkeypatch.chdir(opt.parent)
    folders = ["--results", "finished/drs", "--gt", str(next(opt.parent.rglob("drs/target")))]
    claim = f"{expected(opt, 'y-matlab')[0]:.5f}"
    assert cli.main(["compare", "--quiet", "--which-protocol", claim, *folders]) == 0
    out = capsys.readouterr().out
    assert "### drs on target" in out and f"**{claim} is met under y-matlab (all).**" in out
    for flags in ((), folders, ["--which-protocol", claim, *folders[:2]], ["-opt", str(opt), *folders]):
        assert cli.main(["compare", *flags]) == 2
        assert "expected -opt YML, or --which-protocol NUMBER --results DIR --gt DIR." in capsys.readouterr().err


def test_what_is_no_claim_and_a_claim_needs_images_and_a_file_known_protocols(opt, capsys):
    told = "expected a PSNR such as 33.2 (dB) or an SSIM such as 0.9123, found"
    for claim in ("high", "-3", "0", "nan", "333"):
        assert cli.main(["compare", "-opt", str(opt), f"--which-protocol={claim}"]) == 2
        assert f"{told} '{claim}'" in capsys.readouterr().err
    network = {"name": "n", "network": {"type": "EDSR"}, "untrained": True}
    opt.write_text(yaml.safe_dump({**yaml.safe_load(opt.read_text()), "models": [network]}))
    assert cli.main(["compare", "-opt", str(opt), "--which-protocol", "30"]) == 2
    assert "no model has images; expected one with `results`" in capsys.readouterr().err
    content = yaml.safe_load(opt.read_text())
    for keys, message in (
        ({"protocol": "y-matlap"}, r"c\.yml:\d+: protocol: found .*Did you mean 'y-matlab'\?"),
        ({"protocol": ["rgb", "rain"]}, r"c\.yml:\d+: protocol\[1\]: found the text 'rain'"),
        ({"metrics": ["psnr@ymatlab"]}, r"metrics\[0\]: 'psnr@ymatlab': unknown protocol 'ymatlab'\. Did you mean"),
    ):
        opt.write_text(yaml.safe_dump({**content, **keys}))
        with pytest.raises(OptionError, match=message):
            load_options(opt)
