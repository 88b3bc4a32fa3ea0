"""The page: one file, escaped, the same every time; dragged, sorted and leafed through in Chromium."""

import base64
import io
import json
import re

import numpy as np
import pytest
from browser import Browser, find_chromium
from comparison_data import COLOURS, PAIRED, comparison
from PIL import Image

from unirain_plugin.compare.page import PageOptions, choose_evenly, embedded, shown, write_page
from unirain_plugin.compare.summary import ImageResult

pytest.importorskip("jinja2")

SUMMARY = [
    {"model": "input", "PSNR": 16.0, "SSIM": 0.65, "parameters": None},
    {"model": "Good", "PSNR": 37.5, "SSIM": 0.87, "parameters": 24_400_000},
    {"model": "Bad", "PSNR": 9.25, "SSIM": 0.59, "parameters": 900_000},
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("comparison") / "new" / "page.html"
    write_page(comparison(), SUMMARY, path)
    return path


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if find_chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    opened = Browser(find_chromium(), tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture()
def browser(page, chromium):
    chromium.open(page)
    yield chromium
    assert chromium.errors == []
    assert {url.partition(":")[0] for url in chromium.requests} <= {"file", "data"}


def data_of(path):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text())[1])


def test_one_file_escaped_and_reproducible_with_all_models_and_images(page, tmp_path):
    text = page.read_text()
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert re.findall(r"""(?:src|href)=["']([^"']*)""", text) == ["data:,"]
    assert "tést &amp; &lt;b&gt;name&lt;/b&gt;" in text and "walk <i>" not in text
    assert "<b>Bad</b>: out of memory" in text
    write_page(comparison(), SUMMARY, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    data = data_of(page)
    assert data["models"] == ["input", "Good", "Bad"] and "untrained: cost only" in page.read_text()
    assert "FLOPs" in page.read_text()  # how multiply-adds are counted
    assert [image["name"] for image in data["images"]] == ["one", "two", "three", "walk <i>"]
    one, two, _, walk = data["images"]
    assert list(one["sides"]) == ["input", "Good", "Bad", "gt"] and list(two["sides"]) == ["input", "Good", "gt"]
    assert one["scores"]["Bad"] == {"psnr": ["9.25", 9.25], "ssim": ["0.5925", 0.5925]}
    assert "gt" not in walk["sides"] and walk["scores"]["Good"]["psnr"] == ["–", None]


def decode(uri):
    kind, _, data = uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert f"data:image/{image.format.lower()}" == kind
    return np.asarray(image.convert("RGB")).astype(int)


def test_embedded_images_are_bounded_and_keep_their_colours():
    pixels = np.full((50, 200, 3), (200, 60, 30), np.uint8)
    small, whole = decode(embedded(pixels, 80, 90)), decode(embedded(pixels, 1000, 90))
    assert small.shape == (20, 80, 3) and whole.shape == (50, 200, 3)
    assert np.abs(small - (200, 60, 30)).max() <= 6 and np.abs(whole - (200, 60, 30)).max() <= 6


def test_number_of_images_is_bounded_evenly(tmp_path):
    images = [ImageResult("m", "s", f"{kind}{n}", kind, {}) for kind in ("drs", "nrd") for n in range(3)]
    assert [r.image for r in choose_evenly(images, 3)] == ["drs0", "drs1", "nrd0"]
    assert choose_evenly(images, 100) == images
    write_page(comparison(), SUMMARY, tmp_path / "page.html", PageOptions(images=3, longest_edge=64))
    assert [image["name"] for image in data_of(tmp_path / "page.html")["images"]] == ["one", "two", "walk <i>"]
    assert "3 of 4 images" in (tmp_path / "page.html").read_text()


def test_numbers_as_shown_and_an_infinite_psnr_sorted_first(tmp_path):
    assert shown([0.5, None, 1.25]) == ["0.5000", "–", "1.2500"]
    assert shown([30.0, 0.5, float("nan"), float("inf")]) == ["30.00", "0.50", "–", "∞"]
    assert shown([1234567, "text"]) == ["1,234,567", "text"]
    found = comparison()
    found.results[0].metrics["psnr"] = float("inf")
    rows = [{"model": "a", "PSNR": float("inf")}, {"model": "b", "PSNR": 30.0}]
    write_page(found, rows, tmp_path / "page.html")
    assert '<td data-of="" data-value="1e+300">∞</td>' in (tmp_path / "page.html").read_text()
    text, value = data_of(tmp_path / "page.html")["images"][0]["scores"]["input"]["psnr"]
    assert text == "∞" and value > 1e99


def border(browser):
    """Share of the image, in percent, that the left one covers as drawn."""
    clip = browser.evaluate("getComputedStyle(document.getElementById('left')).clipPath")
    return 100 - float(re.fullmatch(r"inset\(0px ([\d.]+)% 0px 0px\)", clip)[1])


def colours_beside(browser, share):
    """Colours on the screen, 5 % of the image's width left and right of a place."""
    left, top, width, height = frame(browser)
    screen = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    return [screen.getpixel((int(left + (share + by) * width), int(top + 0.3 * height))) for by in (-0.05, 0.05)]


def frame(browser):
    return browser.evaluate(
        "(() => { const f = document.getElementById('frame'); f.scrollIntoView({block: 'center'});"
        " const b = f.getBoundingClientRect(); return [b.x, b.y, b.width, b.height]; })()"
    )


def drag(browser, start, end):
    """Drag with the mouse from one share of the image's width to another."""
    left, top, width, height = frame(browser)
    mouse = {"y": top + height * 0.3, "button": "left", "clickCount": 1}
    browser.call("Input.dispatchMouseEvent", type="mousePressed", x=left + start * width, **mouse)
    for share in np.linspace(start, end, 4):
        browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=left + share * width, buttons=1, **mouse)
    browser.call("Input.dispatchMouseEvent", type="mouseReleased", x=left + end * width, **mouse)


def press(browser, key):
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)


def choose(browser, selector, value):
    browser.evaluate(
        f"(() => {{ const e = document.querySelector('{selector}'); e.value = '{value}';"
        " e.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )


def source(browser, side):
    return browser.evaluate(f"document.getElementById('{side}').src")


def text(browser, selector):
    return browser.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")


def test_slider_follows_mouse_and_keys(browser):
    assert border(browser) == 50
    drag(browser, 0.5, 0.2)
    assert border(browser) == pytest.approx(20, abs=0.5)
    assert colours_beside(browser, 0.2) == [pytest.approx(COLOURS[name], abs=6) for name in ("input", "Good")]
    drag(browser, 0.9, 0.9)
    assert border(browser) == pytest.approx(90, abs=0.5)
    browser.evaluate("document.getElementById('border').value = 50")
    browser.evaluate("document.getElementById('border').focus()")
    for key, expected in (("ArrowRight", 51), ("PageDown", 41), ("ArrowLeft", 40), ("Home", 0), ("End", 100)):
        press(browser, key)
        if key in ("Home", "End"):  # the browser's own keys need its key codes
            browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key=key, code=key,
                         windowsVirtualKeyCode={"Home": 36, "End": 35}[key])  # fmt: skip
        assert border(browser) == pytest.approx(expected, abs=0.2)
    assert "100 % input (rainy), the rest Good" in browser.evaluate("document.getElementById('border').ariaValueText")


def test_sides_and_images_are_changed(browser):
    data = json.loads(text(browser, "#data"))
    one, two = (image["sides"] for image in data["images"][:2])
    assert (source(browser, "left"), source(browser, "right")) == (one["input"], one["Good"])
    choose(browser, "#choose-right", "Bad")
    choose(browser, "#choose-left", "gt")
    assert (source(browser, "left"), source(browser, "right")) == (one["gt"], one["Bad"])
    assert text(browser, "#tag-left") == "ground truth"
    browser.click("#swap")
    assert source(browser, "right") == one["gt"]
    assert text(browser, "#scores tbody tr:nth-child(2)") == "Good36.500.8650"

    browser.click("#next")
    assert text(browser, "#title") == f"{PAIRED} / two" and "2 of 4" in text(browser, "#facts")
    assert browser.evaluate("document.querySelector('#choose-left [value=Bad]').disabled") is True
    assert source(browser, "right") == two["gt"]
    browser.click("#strip button:nth-child(4)")
    assert text(browser, "#title") == "Snapshots / walk <i>"
    assert text(browser, "#choose-left [value=gt]") == "ground truth: none"
    browser.click("#previous")
    assert text(browser, "#title") == f"{PAIRED} / three"
    width, height = frame(browser)[2:]
    assert width / height == pytest.approx(40 / 90, rel=0.02)
    choose(browser, "#zoom", "4")
    assert frame(browser)[2:] == [160, 360]


def test_filters(browser):
    thumbnails = "[...document.querySelectorAll('#strip button:not([hidden]) img')]"
    shown_images = f"{thumbnails}.map(i => i.alt.split(',')[0]).join()"
    browser.click("button[data-type=nrd]")
    assert browser.evaluate(shown_images) == "Paired / two,Paired / three"
    assert text(browser, "#title") == "Paired / two" and "1 of 2" in text(browser, "#facts")
    browser.click("button[data-set=Snapshots]")
    assert browser.evaluate(shown_images) == ""
    assert browser.evaluate("document.getElementById('viewer').hidden") is True
    browser.click("button[data-type='']")
    assert browser.evaluate(shown_images) == "Snapshots / walk <i>"
    assert browser.evaluate("document.querySelector('button[data-set=Snapshots]').ariaPressed") == "true"


def column(browser, table, number):
    return browser.evaluate(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{number}].textContent).join(' ')"
    )


def test_tables_are_sorted(browser):
    header = "#summary thead th:nth-child({}) button"
    sorts = "[...document.querySelectorAll('#summary thead th')].map(h => h.ariaSort).join()"
    assert column(browser, "summary", 0) == "input Good Bad"
    browser.click(header.format(2))
    assert column(browser, "summary", 1) == "37.50 16.00 9.25" and browser.evaluate(sorts) == ",descending,,"
    browser.click(header.format(2))
    assert column(browser, "summary", 1) == "9.25 16.00 37.50" and browser.evaluate(sorts) == ",ascending,,"
    browser.click(header.format(4))  # by number, not by text; what is missing comes last, both ways
    assert column(browser, "summary", 3) == "24,400,000 900,000 –"
    browser.click(header.format(4))
    assert column(browser, "summary", 3) == "900,000 24,400,000 –" and browser.evaluate(sorts) == ",,,ascending"
    browser.click(header.format(1))
    assert column(browser, "summary", 0) == "Bad Good input"
    browser.click("#scores thead th:nth-child(2) button")
    assert column(browser, "scores", 1) == "36.50 15.00 9.25"


def test_wide_summary_is_narrowed_to_a_metric(chromium, tmp_path):
    titles = [f"{group} {metric}" for group in ("worst", "drs", "drd", "nrs", "nrd") for metric in ("PSNR ↑", "NIQE ↓")]
    row = {"model": "Good", **dict.fromkeys(titles, 1.5), "parameters, M": 24.4, "latency, ms": 3.0, "status": "failed"}
    write_page(comparison(), [row], tmp_path / "page.html")
    chromium.open(tmp_path / "page.html")
    count = "[...document.querySelectorAll('#summary {}')].filter(c => c.offsetParent !== null).length"
    for metric, columns in (("PSNR", 8), ("", 13), ("NIQE", 8)):
        if metric != "PSNR":
            chromium.click(f"button[data-metric='{metric}']")
        assert chromium.evaluate(count.format("thead th")) == chromium.evaluate(count.format("tbody tr > *")) == columns
        assert chromium.evaluate(f"document.querySelector(\"button[data-metric='{metric}']\").ariaPressed") == "true"
    assert "failed" not in text(chromium, "#summary") and chromium.errors == []


def test_dark_and_narrow(browser):
    background = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(background) == "rgb(255, 255, 255)"
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert browser.evaluate(background) == "rgb(20, 23, 27)"
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    browser.call("Emulation.clearDeviceMetricsOverride")
    browser.call("Emulation.setEmulatedMedia", features=[])
