"""The report: self-contained, escaped, the same every time; opened and clicked through in Chromium."""

import json
import re
from pathlib import Path

import pytest
from browser import Browser, find_chromium
from distill_helpers import run

from unirain_plugin.distill.records import Candidate, Reference
from unirain_plugin.distill.report import ResultRow, Statistics

pytest.importorskip("jinja2")


@pytest.fixture()
def report(settings):
    """A report over two types' examples and its statistics."""
    settings["report"] = {"enabled": True, "examples": 2, "image_size": 64}
    run(settings)
    folder = Path(settings["output"])
    return folder / "report.html", json.loads((folder / "statistics.json").read_text()), settings


def test_self_contained_escaped_and_reproducible(report):
    path, _, settings = report
    text = path.read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:image/jpeg;base64,)""", text) and "http" not in text
    assert "&lt;b&gt;mean&lt;/b&gt;" in text and "<b>mean</b>" not in text
    assert text.count('<article class="card') <= 4 * 2 * 2
    for key in ("third", "dull", "rendered", "caption distance", "cosine", "SSIM"):
        assert key in text
    before = path.read_bytes()
    path.unlink()
    run(settings)
    assert path.read_bytes() == before


def test_every_figure_has_its_bin_and_unknown_rain_types_judge_nothing():
    candidate = Candidate("a", Path("l"), Path("g"), "drs", "set")
    row = ResultRow(0, candidate, (10, 10), "c", 1.0, ((0, 99.0, 1.0, -1.0),), True, "kept", "why", [])
    for known, judged in (("drs", 1), (None, 0)):
        statistics = Statistics([Reference("r", Path("r"), known)])
        statistics.add(row)
        found = statistics.as_dict()
        filled = {name: chart["before"].index(1) for name, chart in found["distributions"].items()}
        assert filled == {"brightness": 19, "s_txt": 19, "s_vis": 19, "s_perc": 0, "megapixels": 0}
        assert found["retrieved references of the candidate's rain type"]["candidates judged"] == judged


def test_clicked_through_in_chromium(report, tmp_path):
    if find_chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    path, statistics, _ = report
    browser = Browser(find_chromium(), tmp_path / "profile")
    try:
        browser.open(path)
        visible = "[...document.querySelectorAll('.card')].filter(c => c.offsetParent !== null)"
        every = browser.evaluate(f"{visible}.length")
        assert every == browser.evaluate("document.querySelectorAll('.card').length") > 4
        assert browser.evaluate("document.getElementById('kept').textContent") == str(statistics["kept"])
        assert browser.evaluate("[...document.images].every(i => !i.src || i.naturalWidth > 0)")

        browser.click("button[data-type=nrs]")
        assert browser.evaluate(f"[...new Set({visible}.map(c => c.dataset.type))].join()") == "nrs"
        browser.click("button[data-keep=rejected]")
        kinds = browser.evaluate(f"[...new Set({visible}.map(c => c.dataset.type + c.dataset.keep))].join()")
        assert kinds in ("nrsrejected", "")
        browser.click("button[data-type='']")
        browser.click("button[data-keep=kept]")
        kept = browser.evaluate(f"{visible}.length")
        assert 0 < kept < every and browser.evaluate(f"{visible}.every(c => c.classList.contains('kept'))")
        assert browser.evaluate("document.getElementById('shown').textContent") == f"{kept} of {every} examples"

        browser.click(".card:not([hidden]) summary")
        table = browser.evaluate("document.querySelector('.card:not([hidden]) details[open] table').innerText")
        assert "first" in table and "against" in table and "<b>mean</b>" in table
        browser.click(".card:not([hidden]) figure img")
        assert browser.evaluate("document.getElementById('zoom').open") is True
        assert browser.screenshot().startswith(b"\x89PNG")
        browser.click("#zoom img")
        assert browser.evaluate("document.getElementById('zoom').open") is False
        assert browser.errors == []
        assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
    finally:
        browser.close()
