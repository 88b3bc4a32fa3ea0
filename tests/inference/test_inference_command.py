"""The command: files, folders with broken files, videos."""

import io
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from inference_helpers import SMALL, random_image, random_network
from PIL import Image
from video_helpers import make_film, seen

from unirain_plugin import __main__ as cli
from unirain_plugin.checkpoints.weights import write_weights
from unirain_plugin.inference.images import read_image
from unirain_plugin.inference.jobs import plan_jobs, restore_files
from unirain_plugin.inference.restoring import restore
from unirain_plugin.inference.video import probe


def test_a_side_by_side_image_too_wide_for_its_format_costs_the_result_nothing(tmp_path):
    source, out = any_image(tmp_path / "in/wide.webp", 16, 9000, lossless=True), tmp_path / "out"
    (job,) = plan_jobs(source, out, compare=True).jobs
    outcome = restore_files([job], lambda image: image, bar=False)
    ((path, told),) = outcome.failed
    assert path == source and told.startswith(f"{job.target} is written, its side-by-side image is not: ")
    assert "18008×16" in told and not job.compare.exists()
    np.testing.assert_array_equal(read_image(job.target).pixels, read_image(source).pixels)


@pytest.fixture(scope="module")
def net():
    return random_network()


@pytest.fixture(scope="module")
def weights(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    write_weights(path, net.state_dict(), SMALL)
    return path


def any_image(path, *size, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random_image(*(size or (20, 24)))).save(path, **options)
    return path


def run(weights, source, output, *more):
    arguments = ["-i", source, "-o", output, "--weights", weights, "--device", "cpu", "--quiet", *more]
    return cli.main(["inference", *map(str, arguments)])


def fill_folder(root):
    any_image(root / "a.png", 90, 70)
    any_image(root / "b.jpg", quality=95)
    any_image(root / "sub" / "a.png", 20, 24, 4)
    return root


def test_folder_is_mirrored_with_comparisons_and_results_that_are_there_are_skipped(weights, tmp_path, capsys):
    root = fill_folder(tmp_path / "in")
    out = root / "out"
    assert run(weights, root, out, "--compare", "--format", "png") == 0
    made = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    names = {"a.png", "b.png", "sub/a.png"}
    assert made == names | {f"compare/{name}" for name in names}
    assert read_image(out / "sub" / "a.png").pixels.shape == (20, 24, 4)
    assert read_image(out / "compare" / "a.png").pixels.shape == (90, 148, 3)
    (out / "a.png").write_bytes(b"mine")
    capsys.readouterr()
    assert run(weights, root, out) == 0  # the results inside the input are not restored again
    assert "1 restored" in (text := capsys.readouterr().out) and "2 skipped" in text
    assert not (out / "out").exists() and (out / "a.png").read_bytes() == b"mine"
    assert run(weights, root, out, "--overwrite") == 0
    assert read_image(out / "a.png").pixels.shape == (90, 70, 3)


def test_comparisons_and_their_results_take_no_place_of_others(weights, tmp_path, capsys):
    root = tmp_path / "in"
    files = [any_image(root / name) for name in ("x.png", "compare/x.png")]
    before = [path.read_bytes() for path in files]
    for more in ((), ("--overwrite",)):
        assert run(weights, root / "compare", root, "--compare", *more) == 2
        assert "compare/x.png would overwrite its source" in capsys.readouterr().err
    assert run(weights, root, tmp_path / "out", "--compare") == 2
    assert "would both be written to" in capsys.readouterr().err
    assert [path.read_bytes() for path in files] == before
    any_image(tmp_path / "x.png")
    (tmp_path / "out").mkdir(exist_ok=True)
    (tmp_path / "out/x.png").write_bytes(b"mine")
    assert run(weights, tmp_path / "x.png", tmp_path / "out", "--compare") == 1
    assert "out/x.png is there, without its side-by-side image" in capsys.readouterr().out
    assert (tmp_path / "out/x.png").read_bytes() == b"mine"
    assert run(weights, tmp_path / "x.png", tmp_path / "out", "--compare", "--overwrite") == 0


def test_broken_files_do_not_stop_the_folder(weights, tmp_path, capsys):
    root, out = fill_folder(tmp_path / "in"), tmp_path / "out"
    data = (root / "b.jpg").read_bytes()
    (root / "0_cut.jpg").write_bytes(data[: len(data) // 2])
    (root / "0_empty.png").write_bytes(b"")
    (root / "c_text.webp").write_text("no image")
    (root / "notes.txt").write_text("hello")
    (root / "0_broken.mp4").write_text("no film")
    assert run(weights, root, out) == 1
    text = capsys.readouterr().out
    assert "3 restored" in text and "4 failed:" in text and "neither image nor video: notes.txt" in text
    for name in ("0_cut.jpg: the ", "0_empty.png: the file is empty", "c_text.webp", "0_broken.mp4"):
        assert f"{root}/{name}" in text
    assert sorted(p.name for p in out.rglob("*") if p.is_file()) == ["a.png", "a.png", "b.jpg"]


def test_folders_that_are_links_are_restored_and_what_is_not_is_named(weights, tmp_path, capsys, monkeypatch):
    root, out = fill_folder(tmp_path / "in"), tmp_path / "out"
    any_image(tmp_path / "elsewhere" / "large.png", 60, 70)
    any_image(tmp_path / "elsewhere" / "c.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "self").symlink_to(".")
    (root / "lost.png").symlink_to("nowhere.png")
    (root / "closed").mkdir()
    scandir = os.scandir

    def refused(path):
        if str(path).rstrip("/").endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert run(weights, root, out, "--max-megapixels", "0.003") == 1
    text = capsys.readouterr().out
    assert "3 restored" in text and "4 failed:" in text
    assert f"{root}/lost.png: cannot be read: No such file" in text
    assert f"{root}/closed: cannot be listed: Permission denied" in text
    for name, size in (("linked/large.png", "70 × 60"), ("a.png", "70 × 90")):
        assert f"{root}/{name}: {size} pixels are too many: at most 0.003 megapixels are read" in text
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == ["b.jpg", "linked/c.png", "sub/a.png"]


def test_names_that_are_no_text_are_printed_on_strict_terminals(weights, tmp_path, monkeypatch):
    any_image(tmp_path / "in" / "a.png")
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.png")).write_bytes(b"x")
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", shown)
    assert run(weights, tmp_path / "in", tmp_path / "out") == 1
    shown.flush()
    assert b"caf\\udce9.png: cannot be decoded" in shown.buffer.getvalue()


def test_a_failing_network_or_disk_fails_that_file_only_and_the_bar_counts_all(tmp_path, capsys):
    jobs = plan_jobs(fill_folder(tmp_path / "in"), tmp_path / "out").jobs

    def function(pixels):
        if pixels.shape[0] == 90:
            raise RuntimeError("kernel failed")
        return pixels

    (tmp_path / "out" / "b.jpg").mkdir(parents=True)  # cannot be replaced by a file
    outcome = restore_files(jobs, function, bar=False)
    assert [path.name for path, _ in outcome.failed] == ["a.png", "b.jpg"]
    assert outcome.failed[0][1].startswith(f"RuntimeError: kernel failed ({__file__}:")  # the network's own line
    assert "cannot be written" in outcome.failed[1][1]
    assert len(outcome.done) == 1
    assert not list((tmp_path / "out").glob(".*"))
    restore_files(plan_jobs(tmp_path / "in", tmp_path / "anew").jobs, lambda x: x)
    assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda root: ("-i", root / "none"), "there is no such file or folder"),
        (lambda root: ("-i", root / "notes.txt"), "unsupported file; supported: .png"),
        (lambda root: ("-i", root / "void"), "holds no image or video"),
        (lambda root: ("-o", root), "would overwrite its source"),
        (lambda root: ("-o", root / "a.png"), "must be a folder"),
        (lambda root: ("-o", root / "new.png"), "must be a folder, this is the name of an image"),
        (lambda root: ("--tile", 5), "tile: got 5"),
        (lambda root: ("--precision", "fp61"), "precision"),
        (lambda root: ("--precision", "fp16"), "fp16 is for accelerators"),
        (lambda root: ("--weights", root / "none.pth"), "no such file of weights"),
        (lambda root: ("--device", "cuda:77"), "no such device"),
        (lambda root: ("--format", "jpg"), "would both be written"),
    ],
)
def test_mistakes_are_one_message(weights, tmp_path, capsys, change, text):
    root = fill_folder(tmp_path / "in")
    (root / "notes.txt").write_text("x")
    (root / "void").mkdir()
    any_image(root / "b.png", 8, 8)
    assert run(weights, root, tmp_path / "out", *change(root)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error and "Traceback" not in error


def test_video_keeps_frames_size_and_sound(weights, tmp_path):
    source = make_film(tmp_path / "-film é.mp4", size=(64, 48), count=10, sound=("aac",))
    assert run(weights, source, tmp_path / "out", "--compare") == 0
    for folder, width in (("out", 64), ("out/compare", 136)):
        target = tmp_path / folder / source.name
        assert ("video", "h264") in seen(target)["streams"] and len(seen(target)["times"]) == 10
        assert (probe(target).width, probe(target).height) == (width, 48)
    assert seen(tmp_path / "out" / source.name)["streams"] == seen(source)["streams"]
    assert not list((tmp_path / "out").glob(".*"))


def test_one_image(net, weights, tmp_path, capsys):
    pixels = random_image(20, 22, 3, np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels)
    assert run(weights, tmp_path / "deep.png", tmp_path / "out", "--tile", 64) == 0
    result = cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, restore(net, pixels[..., ::-1], tile=64)[..., ::-1])
    assert "1 restored to" in capsys.readouterr().out
    more = ["--ensemble", "--precision", "bf16"]
    assert run(weights, tmp_path / "deep.png", tmp_path / "out", "--overwrite", *more) == 0
    again = cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert again.dtype == np.uint16 and again.shape == pixels.shape and (again != result).any()
