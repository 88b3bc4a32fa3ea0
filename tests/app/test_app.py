"""The app as a user has it: a server process, driven through its interface and in Chromium."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
import torch
from app_images import SMALL, random_image, random_network, write_network, write_random
from browser import Browser, find_chromium
from PIL import Image
from tiny_run import write_own_network

from unirain_plugin import __main__ as cli
from unirain_plugin.app import command, interface
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.inference.images import read_image
from unirain_plugin.inference.restoring import restore

if find_spec("gradio") is None:  # not imported here: that takes seconds, for whoever collects the tests
    pytest.skip("no gradio here: pip install 'unirain_plugin[app]'", allow_module_level=True)
from gradio_client.exceptions import AppError

READY = "!!document.querySelector('#image input[type=file]')"
DEFAULTS = {"tile": 512, "overlap": 32, "precision": "fp32", "ensemble": False, "large": False, "where": "cpu"}


@pytest.fixture(scope="module")
def net():
    return random_network()


class Server:
    """``python -m unirain_plugin app`` on a free port."""

    def __init__(self, folder, net):
        self.log, self.folder = folder / "outside.log", folder
        self.weights = [write_network(folder / "first.safetensors", net), folder / "broken.pth"]
        self.weights[1].write_bytes(b"no weights at all")
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, str(Path(__file__).parent / "audited_server.py"), str(self.log), "app"]
        command += ["--weights", *map(str, self.weights), "--port", str(self.port), "--max-megapixels", "0.2"]
        env, errors = {**os.environ, "TMPDIR": str(self.temporary)}, (folder / "errors.log").open("w")
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.line = self.process.stdout.readline()
        assert self.line, (folder / "errors.log").read_text()
        self.url = f"http://127.0.0.1:{self.port}/"


@pytest.fixture(scope="module")
def server(net, tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("server"), net)
    yield started
    started.process.send_signal(signal.SIGTERM)
    started.process.wait(30)
    assert not started.log.exists(), started.log.read_text()
    assert list(started.temporary.iterdir()) == [], "uploads and results are gone"


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    from gradio_client import Client

    return Client(
        server.url, download_files=str(tmp_path_factory.mktemp("down")), verbose=False, analytics_enabled=False
    )


def ask(client, server, path, **changes):
    """Press *Restore*; returns the preview pair, the line below, and the file to download."""
    from gradio_client import handle_file

    inputs = {"file": path and handle_file(str(path)), "weights": str(server.weights[0]), **DEFAULTS, **changes}
    slider, summary, download = client.predict(*inputs.values(), api_name="/restore")
    return slider, summary, Path(download["value"])


def test_says_where_it_serves_and_offers_samples(server):
    assert server.line == f"Serving at {server.url} (Ctrl+C ends it)\n"
    with urllib.request.urlopen(f"{server.url}config") as reply:
        config = json.load(reply)
    (samples,) = (c["props"]["samples"] for c in config["components"] if c["type"] == "dataset")
    assert [Path(file).name for (file,) in samples] == ["rainy_rocket.jpg", "drops_home.jpg"]


def test_result_is_exactly_that_of_restore(client, server, net, tmp_path):
    path, turned = tmp_path / "größe 1.jpg", Image.Exif()
    turned[274] = 6
    Image.fromarray(random_image(300, 260)).save(path, exif=turned)
    slider, summary, result = ask(client, server, path, tile=256, overlap=16)
    loaded = read_image(path)
    assert loaded.pixels.shape == (260, 300, 3)
    expected = restore(net, loaded.pixels, tile=256, overlap=16)
    found = read_image(result)
    assert np.array_equal(found.pixels, expected) and found.orientation == 6
    assert result.name == "größe 1_restored.png" and summary.startswith("300 × 260 pixels in ")
    before, after = (np.asarray(Image.open(side)) for side in slider)
    assert np.array_equal(before, loaded.pixels) and np.array_equal(after, expected)


def test_depth_and_alpha_are_kept(client, server, net, tmp_path):
    pixels = random_image(40, 50, 4, np.uint16)
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), pixels[..., [2, 1, 0, 3]])
    slider, _, result = ask(client, server, path, precision="bf16", ensemble=True)
    found = read_image(result).pixels
    assert found.dtype == np.uint16 and np.array_equal(found[..., 3], pixels[..., 3])
    assert np.array_equal(found, restore(net, pixels, precision="bf16", ensemble=True))
    assert np.asarray(Image.open(slider[0])).shape == (40, 50, 3)


class Counted(BaseHTTPRequestHandler):
    """Serves an image to whoever asks, and notes it."""

    asked: ClassVar[list] = []

    def do_GET(self):
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(cv2.imencode(".png", np.zeros((20, 24, 3), np.uint8))[1].tobytes())

    def log_message(self, *_):
        pass


@pytest.fixture()
def elsewhere():
    other = ThreadingHTTPServer(("127.0.0.1", 0), Counted)
    Counted.asked.clear()
    threading.Thread(target=other.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{other.server_port}"
    other.shutdown()
    other.server_close()


def call(server, endpoint, *data):
    """The API without its client, which looks at what it sends; returns the events of the answer."""
    body = json.dumps({"data": data}).encode()
    request = urllib.request.Request(
        f"{server.url}gradio_api/call/{endpoint}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{server.url}gradio_api/call/{endpoint}/{event}") as answer:
        return answer.read().decode()


def file_data(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


@pytest.mark.parametrize("endpoint", ["show", "restore"])
@pytest.mark.parametrize("place", ["file", "weights", "nested"])
def test_no_url_is_fetched(server, elsewhere, endpoint, place):
    url = f"{elsewhere}/rain.png"
    named = file_data(url, url=url, orig_name="rain.png")
    inputs = {"file": named, "weights": str(server.weights[0]), **DEFAULTS}
    if place != "file":
        inputs = {**inputs, "file": None, "weights": named if place == "weights" else [{"a": named}]}
    if endpoint == "show":
        inputs = {"file": inputs["file"] or [named]}
    answer = call(server, endpoint, *inputs.values())
    assert "event: error" in answer and "fetches none" in answer
    assert Counted.asked == []


def test_no_url_of_another_machine_is_fetched(client, server):
    with pytest.raises(AppError, match=r"https://hf\.co/rain\.png: this app restores uploaded files and fetches none"):
        ask(client, server, "https://hf.co/rain.png")  # gradio looks at no address of this name


@pytest.mark.parametrize("more", [{}, {"is_stream": True}, {"url": "http://127.0.0.1:9/a.png"}])
def test_only_uploaded_files_are_read(server, tmp_path, elsewhere, more):
    secret = tmp_path / "secret.png"
    write_random(secret, 20, 24)
    uploads = next(server.temporary.glob("unirain-app-*")) / "uploads"
    climbing = uploads / "x" / os.path.relpath(secret, uploads / "x")
    for path in (secret, f"file://{secret}", f"HTTP{elsewhere[4:]}/a.png", climbing, server.weights[0]):
        answer = call(server, "show", file_data(path, **more))
        assert "event: error" in answer and "24 × 20 pixels" not in answer, path
    for path in (secret, server.weights[0], Path(command.__file__)):
        with pytest.raises(urllib.error.HTTPError, match=r"403|404"):
            urllib.request.urlopen(f"{server.url}gradio_api/file={path}")
    assert Counted.asked == []


def test_large_rain_is_restored_at_smaller_sizes_as_well_and_large_images_are_shown_smaller(
    client, server, net, tmp_path
):
    pixels = write_random(tmp_path / "long.png", 60, 700)
    _, summary, result = ask(client, server, tmp_path / "long.png", large=True)
    assert np.array_equal(read_image(result).pixels, restore(net, pixels, sizes=(640, 427)))
    assert summary.endswith(", fp32, 427 pixels"), "640 is not below 3/4 of 700"
    write_random(tmp_path / "wide.png", 16, 2000)
    slider, _, result = ask(client, server, tmp_path / "wide.png")
    assert Image.open(slider[0]).size == Image.open(slider[1]).size == (1600, 13)
    assert Image.open(result).size == (2000, 16)


@pytest.fixture()
def served(monkeypatch):
    """What the command would serve, as a list of one: restorer and defaults."""
    found = []
    monkeypatch.setattr(command, "set_environment", lambda folder: None)
    monkeypatch.setattr(command, "serve", lambda args, *parts: found.append(parts))
    return found


@pytest.mark.parametrize("shipped", [True, False])
def test_large_rain_is_ticked_at_first_where_the_weights_name_sizes(served, tmp_path, net, shipped):
    weights = [] if shipped else ["--weights", str(write_network(tmp_path / "w.safetensors", net))]
    assert command.main(["--device", "cpu", *weights]) == 0
    settings = interface._settings(*served[0], "cpu")
    assert [part.value for part in settings if part.label == "Large drops and streaks"] == [shipped]


def test_a_network_of_ones_own_is_imported(served, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    module = write_own_network(tmp_path, "AppNet")
    state = {"weight": torch.eye(3)[..., None, None] / 2, "bias": torch.zeros(3)}
    write_weights(Path("w.safetensors"), state, {"type": "AppNet"})
    argv = ["app", "--weights", "w.safetensors", "--device", "cpu"]
    assert cli.main([*argv, "--imports", "no_such_net"]) == 2 and cli.main([*argv, "--imports", module]) == 0
    net = served[0][0].net("w.safetensors", "cpu")
    assert (restore(net, np.full((12, 12, 3), 200, np.uint8)) == 100).all()


@pytest.mark.parametrize("large", [True, False])
def test_parts_that_the_weights_name_count_whether_large_rain_is_ticked_or_not(monkeypatch, tmp_path, net, large):
    served = []
    monkeypatch.setattr(command, "set_environment", lambda folder: None)

    def serve(args, restorer, defaults):
        found = interface._restore(restorer)(str(path), str(weights), 512, 32, "fp32", False, large, "cpu")
        served.append(read_image(found[2]["value"]).pixels)

    monkeypatch.setattr(command, "serve", serve)
    weights, path, pixels = tmp_path / "w.safetensors", tmp_path / "long.png", random_image(40, 200)
    write_weights(weights, net.state_dict(), SMALL, context=96)
    Image.fromarray(pixels).save(path)
    assert command.main(["--device", "cpu", "--weights", str(weights)]) == 0
    assert (restore(net, pixels) != restore(net, pixels, context=96)).any()
    np.testing.assert_array_equal(served[0], restore(net, pixels, context=96))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (None, {}, "There is no image yet"),
        ("broken.png", {}, "broken.png: "),
        ("large.png", {}, r"large.png: 600 × 400 pixels are too many: at most 0.2 megapixels"),
        ("large.bmp", {}, r"large.bmp: 600 × 400 pixels are too many"),
        ("good.png", {"precision": "fp16"}, "fp16 is for accelerators"),
        ("good.png", {"weights": "broken.pth"}, "broken.pth"),
        ("good.txt", {}, "Invalid file type"),
    ],
)
def test_errors_are_told(client, server, tmp_path, name, changes, message):
    for file, size in (("good.png", (20, 24)), ("large.png", (400, 600)), ("large.bmp", (400, 600))):
        write_random(tmp_path / file, *size)
    data = (tmp_path / "good.png").read_bytes()
    (tmp_path / "broken.png").write_bytes(data[:-40])
    (tmp_path / "good.txt").write_bytes(data)
    if "weights" in changes:
        changes = {"weights": str(server.weights[1])}
    with pytest.raises(AppError, match=message) as raised:
        ask(client, server, name and tmp_path / name, **changes)
    assert "/gradio" not in str(raised.value) and "unirain-app" not in str(raised.value)


def until(browser, expression, seconds=300):
    """Wait until the page answers yes; while a page is being exchanged Chromium answers with an error."""
    end = time.monotonic() + seconds
    while True:
        try:
            if browser.evaluate(expression):
                return
        except AssertionError:
            pass
        assert time.monotonic() < end, expression
        time.sleep(0.1)


def test_driven_in_chromium(server, tmp_path):
    if find_chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    paths = [tmp_path / name for name in ("rain.png", "cut.png")]
    write_random(paths[0], 60, 90)
    paths[1].write_bytes(paths[0].read_bytes()[:-40])
    browser = Browser(find_chromium(), tmp_path / "profile")
    try:
        browser.call("Page.navigate", url=server.url)
        until(browser, READY)
        drop(browser, paths[0])
        until(browser, "document.querySelector('#summary')?.innerText.startsWith('90 × 60 pixels, 8 bits')")
        browser.click("#restore")
        until(browser, "document.querySelector('#summary')?.innerText.startsWith('90 × 60 pixels in')")
        shown = "[...document.querySelectorAll('#slider img')]"
        assert browser.evaluate(f"new Set({shown}.map(i => i.src)).size") == 2
        until(browser, f"{shown}.every(i => i.naturalWidth === 90 && i.naturalHeight === 60)")
        assert browser.evaluate("document.querySelector('#download').closest('button, a').disabled") is not True
        assert browser.errors == []
        browser.evaluate("window.isOld = true")
        browser.call("Page.reload")
        until(browser, f"!window.isOld && {READY}")
        drop(browser, paths[1])
        until(browser, "document.body.innerText.includes('cut.png: ')")
        outside = [u for u in browser.requests if not u.startswith((server.url, "data:", "blob:", "ws://127.0.0.1"))]
        assert outside == [] and len(browser.requests) > 5
    finally:
        browser.close()


def drop(browser, path, tries=5):
    """Hand a file to the page; gradio may exchange the input between finding and filling it."""
    try:
        _drop(browser, path)
    except AssertionError:
        if tries == 1:
            raise
        time.sleep(0.5)
        drop(browser, path, tries - 1)


def _drop(browser, path):
    root = browser.call("DOM.getDocument", depth=1)["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector="#image input[type=file]")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
