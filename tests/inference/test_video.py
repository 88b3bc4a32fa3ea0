"""Videos: nothing of a film is lost unsaid, in any container, codec and rate."""

import errno
import itertools
import signal
import subprocess
import sys
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from video_helpers import make_film, seen

from unirain_plugin.__main__ import run
from unirain_plugin.errors import DataError
from unirain_plugin.inference import restoring, video, video_merging
from unirain_plugin.inference.jobs import Job, VideoSettings, plan_jobs, restore_files
from unirain_plugin.inference.video import probe, read_frames, timed_frames, writer


def restored(source, out, function=lambda frame: frame, **settings):
    """Run one film; returns its target, what the run says of it, and why it failed."""
    (job,) = plan_jobs(source, out).jobs
    outcome = restore_files([job], function, bar=False, videos=VideoSettings(**settings))
    return job.target, " | ".join(note for _, note in outcome.notes), " | ".join(text for _, text in outcome.failed)


def told(source, out, **settings):
    """What the run says of it; it does not fail."""
    _, notes, failed = restored(source, out, **settings)
    assert failed == ""
    return notes


def pixels_of(path):
    """All frames, 0 to 255."""
    frames = np.stack([frame for _, frame in timed_frames(probe(path), [])])
    return frames.astype(float) / np.iinfo(frames.dtype).max * 255


KINDS = {
    "mp4": ["libx264 yuv420p", "libx265 yuv420p"],
    "mov": ["mjpeg yuvj422p", "prores_ks yuv422p10le", "png ya8"],
    "m4v": ["mpeg4 yuv420p"],
    "mkv": ["libx264 yuv444p", "ffv1 bgr0", "ffv1 gbrp10le", "ffv1 gray", "libx265 yuv420p10le"],
    "webm": ["libvpx-vp9 yuv420p"],
    "avi": ["mpeg4 yuv420p", "huffyuv yuv422p"],
    "mpg": ["mpeg2video yuv420p"],
    "ts": ["libx264 yuv420p"],
    "mts": ["libx264 yuv420p"],
}


@pytest.mark.parametrize(("suffix", "kind"), [(suffix, kind) for suffix in KINDS for kind in KINDS[suffix]])
def test_frames_times_and_sampling_are_kept(tmp_path, suffix, kind):
    codec, pixels = kind.split()
    source = make_film(tmp_path / f"film.{suffix}", codec, pixels, "25" if codec == "libx264" else "30000/1001")
    target, _, failed = restored(source, tmp_path / "out")
    assert failed == ""
    before, after = seen(source), seen(target)
    assert len(after["times"]) == len(before["times"]) == 8
    assert np.diff(after["times"]) == pytest.approx(np.diff(before["times"]), abs=1.1e-3)
    written = {"bgr0": "yuv444p", "gbrp10le": "yuv444p10le", "gray": "yuv420p", "ya8": "yuvj420p"}
    assert after["pixels"] == written.get(pixels, pixels)
    assert abs(pixels_of(source) - pixels_of(target)).mean() < 3


def test_uneven_times_are_kept(tmp_path):
    stamps = [0, 33, 67, 100, 400, 733, 741, 2000]
    for name in ("film.mp4", "film.mkv"):
        source = make_film(tmp_path / name, stamps=stamps)
        target, notes, failed = restored(source, tmp_path / "out")
        assert (notes, failed) == ("", "")
        assert seen(target)["times"] == pytest.approx([stamp / 1000 for stamp in stamps], abs=1e-6)


def test_ten_bits_reach_the_network_and_the_result_unless_another_format_is_forced(tmp_path):
    source = make_film(tmp_path / "film.mkv", "ffv1", "yuv444p10le")
    target, notes, _ = restored(source, tmp_path / "out", pixel_format="yuv420p")
    assert seen(target)["pixels"] == "yuv420p" and "its 10 bits are written as 8" in notes
    kinds = set()
    target, notes, _ = restored(source, tmp_path / "deep", lambda frame: kinds.add(str(frame.dtype)) or frame)
    assert kinds == {"uint16"} and notes == ""
    assert abs(pixels_of(source) - pixels_of(target)).mean() < 1.5


def test_odd_sizes_and_the_aspect_of_pixels_are_kept(tmp_path):
    for width, height in ((33, 31), (32, 31), (33, 32)):
        source = make_film(tmp_path / f"{width}_{height}.mkv", "ffv1", "yuv420p", size=(width, height))
        target, _, failed = restored(source, tmp_path / "out")
        assert failed == "" and pixels_of(target).shape == (8, height, width, 3)
    for name in ("film.mp4", "film.mkv"):
        source = make_film(tmp_path / name, sample_aspect_ratio=Fraction(16, 11), size=(72, 58))
        assert probe(restored(source, tmp_path / "out")[0]).aspect == probe(source).aspect == "16/11"


@pytest.mark.parametrize(
    ("primaries", "transfer", "matrix"),
    [*((9, t, 9) for t in (1, 8, 13, 16, 17, 18)), *((p, 1, 1) for p in (1, 8, 10, 12))],
)
def test_transfer_curves_and_primaries_are_kept(tmp_path, primaries, transfer, matrix):
    colours = {"color_trc": transfer, "color_primaries": primaries, "colorspace": matrix, "color_range": 1}
    source = make_film(tmp_path / ("film.mp4" if matrix == 9 else "film.mkv"), **colours)
    target, notes, failed = restored(source, tmp_path / "out")
    assert failed == "" and seen(target)["colours"] == seen(source)["colours"] == (matrix, primaries, transfer, 1)
    assert ("HDR" in notes) == (transfer in (16, 18))


@pytest.mark.parametrize(("matrix", "span"), [(1, 1), (2, 2), (4, 1), (5, 2), (6, 2), (7, 1), (9, 2)])
def test_matrix_and_range_are_kept_and_used(tmp_path, matrix, span):
    source = make_film(tmp_path / "film.mp4", pixels="yuv444p", colorspace=matrix, color_range=span)
    target, _, failed = restored(source, tmp_path / "out")
    after = seen(target)
    assert failed == "" and after["colours"][0] == matrix and after["colours"][3] == span
    with av.open(str(source)) as one, av.open(str(target)) as two:  # coded values, whatever they mean
        pairs = zip(one.decode(video=0), two.decode(video=0), strict=True)
        assert max(abs(a.to_ndarray().astype(int) - b.to_ndarray()).mean() for a, b in pairs) < 1.5


def test_the_matrix_decides_what_the_network_sees_and_one_that_cannot_be_computed_is_refused(tmp_path):
    films = [make_film(tmp_path / f"{m}.mp4", pixels="yuv444p", colorspace=m, color_range=1) for m in (1, 6)]
    first, second = map(pixels_of, films)
    assert abs(first - second).max() > 5
    for matrix in (8, 14):
        source = make_film(tmp_path / "film.mp4", colorspace=matrix)
        _, _, failed = restored(source, tmp_path / "out")
        assert f"colour matrix (code {matrix} of H.273) cannot be computed" in failed


@pytest.mark.parametrize("rotation", [(90,), (-90,), (180,), (0, False, True), (90, True)])
def test_frames_are_turned_upright(tmp_path, rotation):
    source = make_film(tmp_path / "film.mp4", pixels="yuv444p", size=(48, 32), rotation=rotation)
    plain = make_film(tmp_path / "plain.mp4", pixels="yuv444p", size=(48, 32))
    expected = np.rot90(pixels_of(plain), round(rotation[0] / 90), (1, 2))
    if len(rotation) > 1 and rotation[1]:
        expected = expected[:, :, ::-1]
    if len(rotation) > 2:
        expected = expected[:, ::-1]
    target, notes, _ = restored(source, tmp_path / "out")
    assert notes == "" and (probe(target).width, probe(target).turn) == (expected.shape[2], ())
    assert abs(pixels_of(source) - expected).mean() < 1 and abs(pixels_of(target) - expected).mean() < 3


def test_a_crooked_rotation_and_transparency_are_told(tmp_path):
    film = make_film(tmp_path / "film.mp4", rotation=(30,))
    assert "rotation by -30° is not applied" in told(film, tmp_path / "out")
    film = make_film(tmp_path / "film.mkv", "ffv1", "yuva420p")
    assert "transparency is lost" in told(film, tmp_path / "out")


DAY = {"title": "Ride", "creation_time": "2024-01-02T03:04:05.000000Z"}
TWO = [(0, 300, "one"), (300, 800, "two")]


@pytest.mark.parametrize(
    ("suffix", "sound", "tags", "chapters", "attachment"),
    [
        ("mkv", ("aac", "flac"), {**DAY, "LOCATION": "+48.1+011.5/", "ARTIST": "Me"}, TWO, True),
        ("mp4", ("aac", "aac"), {**DAY, "location": "+48.1000+011.5000/"}, [(0, 800, "one")], False),
    ],
)
def test_all_that_a_film_holds_is_kept(tmp_path, suffix, sound, tags, chapters, attachment):
    more = {"tags": tags, "chapters": chapters, "attachment": attachment, "cover": True}
    source = make_film(tmp_path / f"film.{suffix}", sound=sound, **more)
    target, notes, failed = restored(source, tmp_path / "out")
    before, after = seen(source), seen(target)
    assert (notes, failed) == ("", "")
    assert sorted(map(str, after["streams"])) == sorted(map(str, before["streams"]))
    assert {key: after["tags"].get(key) for key in tags} == {key: before["tags"].get(key) for key in tags}
    assert after["tags"]["title"] == "Ride" and (suffix == "mp4" or tags.items() <= after["tags"].items())
    assert after["chapters"] == before["chapters"] == [(name, start / 1000) for start, _, name in chapters]
    assert after["tracks"] == before["tracks"] == [("eng", "microphone 0"), ("deu", "microphone 1")]


def test_sound_that_is_encoded_anew_keeps_its_tags_and_lost_ones_are_told(tmp_path, monkeypatch):
    source = make_film(tmp_path / "film.mkv", sound=("aac",))
    monkeypatch.setattr(video_merging, "_refusal", lambda *_: "not held here")
    target, notes, _ = restored(source, tmp_path / "out")
    assert notes == "audio stream 1 (aac) is encoded anew as flac, without loss: not held here"
    assert seen(target)["tracks"] == [("eng", "microphone 0")]

    def without_tags(output, stream, copy_of=video_merging._copy_of):
        copy = copy_of(output, stream)
        copy.metadata.clear()
        return copy

    monkeypatch.undo()
    monkeypatch.setattr(video_merging, "_copy_of", without_tags)
    _, notes, _ = restored(source, tmp_path / "again")
    assert notes == "tags of its streams are lost: audio language, audio title"


def packets_of(path, kind):
    with av.open(str(path)) as film:
        packets = film.demux(*getattr(film.streams, kind))
        return [(bytes(packet), packet.pts * packet.time_base) for packet in packets if packet.size]


def test_data_is_kept_or_told_and_captions_are_kept(tmp_path):
    source = make_film(tmp_path / "film.mp4", data="bin_data", sound=("aac",))
    target, notes, _ = restored(source, tmp_path / "out")
    assert notes == "" and ("data", "bin_data") in seen(target)["streams"]
    assert packets_of(target, "data") == [(b"place %d" % index, Fraction(index, 10)) for index in range(8)]
    source = make_film(tmp_path / "film.ts", data="klv", rate="25")
    target, notes, _ = restored(source, tmp_path / "out")
    assert "data stream 1 (klv) is left out: " in notes and len(seen(target)["streams"]) == 1
    source = add_captions(make_film(tmp_path / "film.mkv"), tmp_path / "with.mkv")
    target, notes, _ = restored(source, tmp_path / "out")
    assert notes == "" and ("subtitle", "srt") in seen(target)["streams"]
    assert packets_of(target, "subtitles") == [(b"hello", Fraction(1, 10))]


@pytest.mark.parametrize(
    ("name", "form", "codec", "sound", "becomes"),
    [
        ("camera.mp4", "mov", "libx264", "pcm_s16be", "alac"),
        ("mp3.m4v", "mp4", "libx264", "libmp3lame", "mp3float"),
        ("dvd.mpg", "vob", "mpeg2video", "pcm_dvd", "flac"),
        ("camera.mov", "mov", "libx264", "pcm_s24le", "pcm_s24le"),
        ("film.avi", "avi", "mpeg4", "pcm_s16le", "pcm_s16le"),
        ("film.webm", "webm", "libvpx-vp9", "libopus", "opus"),
    ],
)
def test_sound_is_kept_in_every_container(tmp_path, name, form, codec, sound, becomes):
    source = make_film(tmp_path / name, codec, rate="25", sound=(sound,), form=form)
    target, notes, failed = restored(source, tmp_path / "out")
    assert failed == ""
    kind, found = seen(target)["streams"][1]
    assert kind == "audio" and found in (becomes, sound)
    assert ("encoded anew" in notes) == (found != seen(source)["streams"][1][1])
    if found == becomes != sound and becomes in ("alac", "flac"):  # nothing of the sound is lost
        one, two = (sound_of(path) for path in (source, target))
        assert np.array_equal(one, two)


def sound_of(path):
    with av.open(str(path)) as film:
        convert = av.AudioResampler("s16", "stereo", 48000)
        parts = [part.to_ndarray() for frame in film.decode(audio=0) for part in convert.resample(frame)]
        return np.concatenate(parts, 1)


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


LONG = [
    ("mp4", "libx264", {"movflags": "faststart"}, 0.6),
    ("mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, 0.6),
    ("mkv", "libx264", {}, 0.6),
    ("webm", "libvpx-vp9", {}, 0.6),
    ("avi", "mpeg4", {}, 0.6),
    ("avi", "mpeg4", {}, 0.93),
    ("mpg", "mpeg2video", {}, 0.6),
    ("ts", "libx264", {}, 0.6),
]


@pytest.mark.parametrize(("suffix", "codec", "container", "share"), LONG, ids=lambda value: str(value))
def test_a_source_that_is_cut_short_is_told_and_only_restored_on_demand(tmp_path, suffix, codec, container, share):
    settings = {"rate": "25" if suffix == "mpg" else "10", "gop_size": 4, "count": 24, "size": (64, 48)}
    source = cut(make_film(tmp_path / f"film.{suffix}", codec, container=container, **settings), share)
    target, _, failed = restored(source, tmp_path / "out")
    assert "the source is damaged" in failed and "--damaged" in failed
    assert "bytes" in failed or not container  # an empty part of 8 bytes stands before the frames
    assert not (tmp_path / "out").exists()
    target, notes, failed = restored(source, tmp_path / "out", damaged=True)
    assert failed == "" and "the source is damaged, the result is what could be decoded" in notes
    assert 0 < len(seen(target)["times"]) < 24


def test_what_is_wrong_with_one_film_is_told_of_the_next_too_and_one_without_its_index_as_incomplete(tmp_path):
    for name in "abc":
        source = cut(make_film(tmp_path / f"{name}.mkv", rate="10", count=24, size=(64, 48)), 0.97)
        assert "the source is damaged: File ended prematurely" in restored(source, tmp_path / "out")[2]
    for suffix in ("mp4", "mov", "m4v"):
        _, _, failed = restored(cut(make_film(tmp_path / f"film.{suffix}"), 0.5), tmp_path / "out")
        assert "moov atom not found" in failed and "was not downloaded or recorded to its end" in failed


@pytest.mark.parametrize("kind", ["mp4 libx264", "mkv libx264", "ts libx264", "avi mpeg4", "avi ffv1"])
def test_broken_packets_in_the_middle_are_told(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(video, "_PART_PIXELS", 0)
    monkeypatch.setattr(video, "_PART_FRAMES", 1)
    suffix, codec = kind.split()
    source = make_film(tmp_path / f"film.{suffix}", codec, size=(128, 96))
    with av.open(str(source)) as film:
        packets = [packet for packet in film.demux(video=0) if packet.size]
        largest = max(packets[2:], key=lambda packet: packet.size)
        where, size = largest.pos + (60 if suffix in ("mkv", "ts") else 8), largest.size
    data = bytearray(source.read_bytes())
    for offset in range(where, where + size // 2, 7):
        data[offset] ^= 0x5A
    source.write_bytes(data)
    _, _, failed = restored(source, tmp_path / "out", made_from="a")
    assert "the source is damaged" in failed
    target, notes, _ = restored(source, tmp_path / "out", made_from="a", damaged=True)
    assert "the source is damaged, the result is what could be decoded" in notes
    alone, _, _ = restored(source, tmp_path / "alone", damaged=True)
    assert seen(target) == seen(alone) and np.array_equal(pixels_of(target), pixels_of(alone))


def test_interlaced_films_are_told_or_made_whole(tmp_path):
    options = {"flags": "+ildct+ilme", "top": "1"}
    source = make_film(tmp_path / "film.ts", "mpeg2video", rate="25", options=options)
    interlaced = probe(source).interlaced
    target, notes, _ = restored(source, tmp_path / "out")
    assert interlaced and "it is interlaced" in notes and probe(target).interlaced == interlaced
    target, notes, _ = restored(source, tmp_path / "whole", deinterlace=True)
    assert notes == "" and probe(target).interlaced == "" and len(seen(target)["times"]) == 8


def test_frames_that_change_their_size_are_an_error_and_a_second_camera_is_told(tmp_path):
    first, second = (make_film(tmp_path / f"{n}.ts", "mpeg2video", rate="25", size=(n, n)) for n in (32, 64))
    source = tmp_path / "film.ts"
    source.write_bytes(first.read_bytes() + second.read_bytes())
    assert "its frames change from" in restored(source, tmp_path / "out", damaged=True)[2]
    for name in ("film.mkv", "film.mp4"):
        source = make_film(tmp_path / name, second="libx264", sound=("aac",))
        target, notes, _ = restored(source, tmp_path / "out")
        assert notes == "video stream 2 (h264) is left out: one is restored"
        assert seen(target)["streams"] == [("video", "h264"), ("audio", "aac")] and pixels_of(target).shape[1] == 32


KILLED = """
import itertools, os, pathlib, signal, sys
from unirain_plugin.inference import jobs, video
video._PART_PIXELS, video._PART_FRAMES, count = 0, 3, itertools.count(1)
def function(frame):
    if next(count) == 8:
        os.kill(os.getpid(), signal.SIGKILL)
    return frame
plan = jobs.plan_jobs(*map(pathlib.Path, sys.argv[1:]))
jobs.restore_files(plan.jobs, function, bar=False, videos=jobs.VideoSettings(made_from="a"))
"""


@pytest.fixture()
def short_parts(monkeypatch):
    """Parts of three frames."""
    monkeypatch.setattr(video, "_PART_PIXELS", 0)
    monkeypatch.setattr(video, "_PART_FRAMES", 3)


def test_a_killed_run_goes_on_where_it_was(tmp_path, short_parts):
    source = make_film(tmp_path / "film.mp4", stamps=[0, 30, 90, 100, 300, 320, 400, 410, 500, 700], sound=("aac",))
    whole, _, _ = restored(source, tmp_path / "whole", made_from="a")
    out = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", KILLED, str(source), str(out)]).returncode == -signal.SIGKILL
    (kept,) = out.iterdir()
    assert sorted(entry.name for entry in kept.glob("*.mp4")) == ["000000.mp4", "000001.mp4"]
    again = []
    target, _, failed = restored(source, out, lambda frame: again.append(1) or frame, made_from="a")
    assert failed == "" and len(again) == 4 and list(out.iterdir()) == [target]
    assert np.array_equal(pixels_of(target), pixels_of(whole)) and seen(target) == seen(whole)


@pytest.mark.parametrize("other", ["b", None])
def test_parts_of_other_weights_are_not_used(tmp_path, short_parts, other):
    source, calls, again = make_film(tmp_path / "film.mkv"), [], []

    def killed(frame):
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("killed")
        return frame

    assert restored(source, tmp_path / "out", killed, made_from="a")[2].startswith("RuntimeError: killed (")
    assert restored(source, tmp_path / "out", lambda f: again.append(1) or f, made_from=other)[2] == ""
    assert len(again) == 8


def test_frames_side_by_side_in_threads_come_in_order(tmp_path):
    source = make_film(tmp_path / "film.mkv", "ffv1", "yuv444p")
    plain = pixels_of(restored(source, tmp_path / "one")[0])

    def slow_at_first(frame):
        time.sleep(0.02 * (frame.mean() < 130))
        return frame

    target, _, _ = restored(source, tmp_path / "out", slow_at_first, at_once=3)
    assert np.array_equal(pixels_of(target), plain)


def test_the_same_frames_are_always_encoded_alike(tmp_path):
    source = make_film(tmp_path / "film.mkv", "ffv1", "yuv444p", size=(48, 48))
    films, sizes = [], np.random.default_rng(0).integers(100, 200_000, (10, 50))
    for index in range(10):
        kept = [np.full(size, size % 255, np.uint8) for size in sizes[index]]  # other memory for the encoder each time
        films.append(pixels_of(restored(source, tmp_path / str(index))[0]))
        assert len(kept) and np.array_equal(films[0], films[-1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_and_leaves_nothing(tmp_path, monkeypatch, capsys, number):
    source = make_film(tmp_path / "film.mp4", count=40)
    calls = itertools.count(1)

    def function(net, frame, **_):  # in threads: one of them alone is the fifth, a second signal would end the tests
        if next(calls) == 5:
            signal.raise_signal(number)
            time.sleep(0.2)
        return frame

    monkeypatch.setattr(restoring, "restore", function)
    arguments = ["-i", str(source), "-o", str(tmp_path / "out"), "--quiet", "--compare"]
    assert run("inference", arguments) == 128 + number
    assert "finished parts of a long video: the same command goes on" in capsys.readouterr().err
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_frames_without_stamps_are_written_at_the_mean_rate_and_two_runs_do_not_write_the_same_film(tmp_path):
    source, out = probe(make_film(tmp_path / "film.mp4", rate="10")), tmp_path / "out.mp4"
    frames = list(read_frames(source))
    with writer(out, source, 32) as write:
        with pytest.raises(DataError, match=r"another run is making out\.mp4"), writer(out, source, 32):
            pass
        for frame in frames:
            write(frame)
    assert [float(time) for time in seen(out)["times"]] == pytest.approx([n / 10 for n in range(8)])
    again = list(read_frames(probe(out)))
    assert max(np.abs(a.astype(int) - b).mean() for a, b in zip(again, frames, strict=True)) < 3


def test_a_failing_network_or_a_full_disk_leave_nothing_and_a_folder_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    def fails(frame):
        raise RuntimeError("kernel failed")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    source, out = make_film(tmp_path / "film.mp4"), tmp_path / "out"
    assert restored(source, out, fails, made_from="a")[2].startswith("RuntimeError: kernel failed (")
    assert list(out.iterdir()) == []
    (tmp_path / "file").touch()
    job = Job(source, tmp_path / "file/film.mp4", None, is_video=True)
    ((_, reason),) = restore_files([job], lambda frame: frame, bar=False).failed
    assert reason.startswith(f"{tmp_path}/file/film.mp4: cannot be written: ")
    monkeypatch.setattr(video, "put_in_place", full)
    with pytest.raises(DataError, match=r"out/film\.mp4: cannot be written: No space left on device"):
        restored(source, out)
    assert list(out.iterdir()) == []


def test_a_name_as_long_as_names_can_be_and_what_to_install_without_pyav(tmp_path, monkeypatch):
    source = make_film(tmp_path / ("x" * 251 + ".mkv"))
    assert restored(source, tmp_path / "out")[2] == ""
    source = make_film(tmp_path / "film.mp4")
    monkeypatch.setitem(sys.modules, "unirain_plugin.inference.video", None)
    assert "videos need PyAV: pip install av" in restored(source, tmp_path / "out")[2]


def test_tags_and_timecodes_of_cameras_are_kept_and_other_tags_told(tmp_path):
    place = {"com.apple.quicktime.location.ISO6709": "+48.1+011.5/", "com.apple.quicktime.model": "Phone"}
    for suffix, tags, kept, told in (
        ("mov", place, place, ""),
        ("mp4", {"title": "Ride", "mood": "wet"}, {"title": "Ride"}, "tags are lost: mood"),
    ):
        source = make_film(tmp_path / f"film.{suffix}", tags=tags, container={"movflags": "use_metadata_tags"})
        target, notes, _ = restored(source, tmp_path / "out")
        assert notes == told and kept.items() <= seen(target)["tags"].items()
        source = make_film(tmp_path / f"timed.{suffix}", tags={"timecode": "01:02:03:04"})
        target, notes, failed = restored(source, tmp_path / "out")
        assert (notes, failed) == ("", "") and seen(target)["streams"] == seen(source)["streams"]
        with av.open(str(source)) as before, av.open(str(target)) as after:
            found = [[s.metadata["timecode"] for s in film.streams] for film in (before, after)]
        assert found[0] == found[1] and len(found[0]) == 2


def add_captions(source, target):
    """The same film with a line of text from 0.1 to 0.4 s."""
    captions = target.with_suffix(".srt")
    captions.write_text("1\n00:00:00,100 --> 00:00:00,400\nhello\n")
    with av.open(str(source)) as film, av.open(str(captions)) as text, av.open(str(target), "w") as output:
        streams = [output.add_stream_from_template(each.streams[0], opaque=True) for each in (film, text)]
        for each, stream in zip((film, text), streams, strict=True):
            for packet in each.demux():
                if packet.size:
                    packet.stream = stream
                    output.mux(packet)
    return target
