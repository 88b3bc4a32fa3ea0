"""Tiny films with every kind of stream, made with PyAV."""

import io
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def frames_of(count=8, height=32, width=32):
    """Frames that differ clearly, without what halved colour would lose."""
    y, x = np.mgrid[0:height, 0:width]
    for index in range(count):
        grey = 128 + 60 * np.sin((x + 3 * index) / 9) * np.cos(y / 11) + 6 * index
        yield np.stack([grey, grey * 0.9, 255 - grey], -1).clip(0, 255).astype(np.uint8)


def make_film(
    path,
    codec="libx264",
    pixels="yuv420p",
    rate="10",
    stamps=None,
    size=(32, 32),
    sound=(),
    tags=None,
    options=None,
    form=None,
    chapters=(),
    cover=False,
    attachment=False,
    rotation=None,
    container=None,
    count=8,
    data=None,
    second=None,
    **codec_settings,
):
    """Write a film: ``stamps`` in thousandths of a second, ``sound`` the codecs of its tracks, ``data`` the codec of a
    stream of data, ``second`` that of a second camera."""
    quality = {"libx264": {"crf": "4"}, "libx265": {"x265-params": "log-level=none:crf=4"}}.get(codec, {})
    rate, millisecond = Fraction(rate), Fraction(1, 1000)
    with av.open(str(path), "w", format=form, options=container or {}) as output:
        stream = output.add_stream(codec, rate, {**quality, **(options or {})}, width=size[0], height=size[1])
        stream.codec_context.pix_fmt = pixels
        stream.codec_context.time_base = millisecond if stamps else 1 / rate
        if codec not in quality:
            stream.codec_context.bit_rate = 4_000_000
        for name, value in codec_settings.items():
            setattr(stream.codec_context, name, value)
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        tracks = [output.add_stream(name, rate=48000) for name in sound]
        for number, track in enumerate(tracks):
            track.metadata.update(language="deu" if number else "eng", title=f"microphone {number}")
        if second:
            camera = output.add_stream(second, rate, width=16, height=16)
            camera.codec_context.pix_fmt = pixels
        if data:
            sensor = output.add_data_stream(data)
            sensor.time_base = millisecond
        output.metadata.update(tags or {})
        if chapters:
            places = [{"start": a, "end": b, "metadata": {"title": title}} for a, b, title in chapters]
            output.set_chapters([{"id": i, "time_base": millisecond, **place} for i, place in enumerate(places)])
        if attachment:
            output.add_attachment("font.ttf", "application/x-truetype-font", b"font")
        png = io.BytesIO()
        Image.new("RGB", (16, 16), (255, 0, 0)).save(png, "PNG")
        if cover and path.suffix == ".mkv":
            output.add_attachment("cover.png", "image/png", png.getvalue())
        elif cover:
            image = output.add_mux_stream("png", width=16, height=16)
            image.disposition = av.stream.Disposition.attached_pic
            output.start_encoding()
            packet = packet_of(png.getvalue(), image, 0)
            packet.is_keyframe = True
            output.mux(packet)
        for index, pixel in enumerate(frames_of(len(stamps) if stamps else count, size[1], size[0])):
            frame = av.VideoFrame.from_ndarray(pixel, "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = (stamps[index], millisecond) if stamps else (index, 1 / rate)
            output.mux(stream.encode(frame))
            if second:
                output.mux(camera.encode(frame.reformat(width=16, height=16)))
            if data:
                packet = packet_of(b"place %d" % index, sensor, 100 * index)
                packet.duration, packet.time_base = 100, millisecond
                output.mux(packet)
        output.mux(stream.encode(None))
        if second:
            output.mux(camera.encode(None))
        for track in tracks:
            context = track.codec_context
            resampler = av.AudioResampler(context.format.name if context.format else "s16", "stereo", 48000)
            for index in range(40):
                wave = (np.sin(np.arange(1000) / 9 + index) * 8000).astype(np.int16)[None].repeat(2, 0)
                frame = av.AudioFrame.from_ndarray(wave, "s16p", "stereo")
                frame.rate, frame.pts, frame.time_base = 48000, 1000 * index, Fraction(1, 48000)
                for part in resampler.resample(frame):
                    part.pts = 1000 * index
                    output.mux(track.encode(part))
            output.mux(track.encode(None))
    return path


def packet_of(data, stream, pts):
    packet = av.Packet(data)
    packet.stream, packet.pts, packet.dts = stream, pts, pts
    return packet


def seen(path):
    """What a film holds: times in seconds, streams by kind and codec, tags, chapters."""
    with av.open(str(path)) as film:
        main = film.streams.video[0]
        context = main.codec_context
        return {
            "times": [float(frame.pts * main.time_base) for frame in film.decode(main)],
            "streams": [(s.type, s.codec_context.name if s.codec_context else s.name) for s in film.streams],
            "tags": dict(film.metadata),
            "chapters": [(c["metadata"]["title"], float(c["start"] * c["time_base"])) for c in film.chapters()],
            "pixels": context.pix_fmt,
            "colours": (context.colorspace, context.color_primaries, context.color_trc, context.color_range),
            "tracks": [(s.language, s.metadata.get("title", s.metadata.get("name"))) for s in film.streams.audio],
        }
