"""What is known of a video, and its frames as arrays."""

import dataclasses
import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.logging
import numpy as np

from unirain_plugin.errors import DataError, reason
from unirain_plugin.inference.jobs import VideoSettings

COLOURS = ("colorspace", "color_primaries", "color_trc", "color_range")
"""Attributes that hold code points of H.273: matrix, primaries, transfer curve, range."""
_MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}
"""Colour matrices between RGB and YCbCr that can be computed, by their code points in ITU-T H.273."""
_RGB, _UNSPECIFIED = 0, 2
_SCALER_NAMES = {"bt470bg": "bt470", "bt2020nc": "bt2020"}
_HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
_FULL_RANGE = 2
_SCALING = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_CLOCKS = ("mpegts", "mpeg")  # formats whose time stamps start anywhere
_OUTERMOST = (b"moov", b"mdat", b"moof", b"RIFF")  # parts of MP4 and AVI files that tell their length

av.logging.set_level(av.logging.ERROR)  # or exceptions hold no reason
av.logging.set_skip_repeated(False)  # what was wrong with the file before would not be told of this one
logging.getLogger("libav").addHandler(logging.NullHandler())
logging.getLogger("libav").propagate = False


@dataclass(frozen=True)
class Video:
    """A source and what is known of it."""

    path: Path
    width: int  # columns as shown (after any rotation); ``height`` likewise
    height: int
    rate: str  # frames a second in the mean, as a fraction (``30000/1001``)
    matrix: str  # colour matrix between RGB and YCbCr, in ffmpeg's name; a guess where the file tells none
    aspect: str  # width to height of a pixel as shown, as ``16/11``
    pixels: str  # pixel format, in ffmpeg's name
    tags: tuple[int, int, int, int]  # what the file tells of its :data:`COLOURS`
    time_base: Fraction  # unit of the frames' time stamps, in seconds
    start: Fraction  # where the film's clock starts, in seconds; subtracted from all time stamps
    interlaced: str  # ``tff`` or ``bff``, by which field comes first, or nothing
    turn: tuple[str, ...]  # filters that turn decoded frames upright
    settings: VideoSettings  # how it is read and written
    notes: tuple[str, ...]  # what of it cannot be kept

    @property
    def deep(self) -> bool:
        return av.VideoFormat(self.pixels).components[0].bits > 8

    def output_format(self, width: int) -> str:
        """The pixel format for a result of this many columns."""
        if self.settings.pixel_format != "keep":
            return self.settings.pixel_format
        source = av.VideoFormat(self.pixels)
        halved = source.chroma_width(64) < 64, source.chroma_height(64) < 64
        if len(source.components) < 3 and not source.is_rgb:  # grey
            halved = True, True
        if source.has_palette:
            halved = False, False
        name = {(True, True): "yuv420p", (True, False): "yuv422p"}.get(halved, "yuv444p")
        if (width % 2 and halved[0]) or (self.height % 2 and name == "yuv420p"):
            name = "yuv444p"  # halved colour needs even sizes
        return f"{name}10le" if self.deep else name


@contextmanager
def opened(path: Path) -> Iterator[av.container.InputContainer]:
    """Open a source; a DataError if it cannot be read as a video."""
    try:
        container = av.open(f"file:{path.resolve()}", metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        hint = "; it is damaged, was not downloaded or recorded to its end, or is no video"
        raise DataError(f"{path}: cannot be read as a video: {reason(error)}{hint}.") from None
    with container:
        yield container


def main_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    """The stream that is restored: the first that is no cover."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            if stream.codec_context is None:
                raise DataError(f"{path}: cannot be read as a video: no decoder knows its codec.")
            stream.thread_count = 1  # PyAV 18 can lock up when a decoder's own threads report errors
            return stream
    raise DataError(f"{path}: cannot be read as a video: it holds no video stream.")


def probe(path: Path, settings: VideoSettings | None = None) -> Video:
    """Look into a video; a DataError if it holds none that can be read, or colours that cannot be computed."""
    settings = settings or VideoSettings()
    with opened(path) as container:
        stream = main_stream(container, path)
        frame = _first_frame(container, stream, path)
        codec = stream.codec_context
        turn, flipped, crooked = _turn(frame)
        width, height = (frame.height, frame.width) if flipped else (frame.width, frame.height)
        aspect = stream.sample_aspect_ratio or Fraction(1)
        aspect = 1 / aspect if flipped else aspect
        tags = tuple(
            getattr(frame, name) if getattr(frame, name) not in (0, _UNSPECIFIED) else getattr(codec, name)
            for name in COLOURS
        )
        if tags[0] == _RGB and not (frame.format.is_rgb or frame.format.has_palette):  # grey, of PNG
            tags = (_UNSPECIFIED, *tags[1:])
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        clock = any(name in _CLOCKS for name in container.format.name.split(","))
        order = codec.field_order
        video = Video(
            path=path,
            width=width,
            height=height,
            rate=f"{rate.numerator}/{rate.denominator}",
            matrix=_matrix(path, tags[0], width, height, frame.format),
            aspect=f"{aspect.numerator}/{aspect.denominator}",
            pixels=frame.format.name,
            tags=tags,
            time_base=stream.time_base,
            start=Fraction(container.start_time or 0, 10**6) if clock else Fraction(0),
            interlaced={2: "tff", 4: "tff", 3: "bff", 5: "bff"}.get(order, "tff" if frame.interlaced_frame else ""),
            turn=turn,
            settings=settings,
            notes=(crooked,) if crooked else (),
        )
        return dataclasses.replace(video, notes=video.notes + tuple(_losses(video, frame)))


def _first_frame(container: av.container.InputContainer, stream: av.VideoStream, path: Path) -> av.VideoFrame:
    cause = "no frame can be decoded"
    try:
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    return frame
            except av.FFmpegError as error:  # a recording may begin in the middle of something
                cause = reason(error)
    except av.FFmpegError as error:
        cause = reason(error)
    raise DataError(f"{path}: cannot be read as a video: {cause}; it is damaged or incomplete.")


def _matrix(path: Path, code: int, width: int, height: int, pixels: av.VideoFormat) -> str:
    if code in _MATRICES:
        return _MATRICES[code]
    if code == _UNSPECIFIED or pixels.is_rgb or pixels.has_palette:
        # what players assume of untagged video, whichever way it is turned
        return "bt709" if max(width, height) >= 1280 or min(width, height) > 576 else "smpte170m"
    known = ", ".join(_MATRICES.values())
    raise DataError(f"{path}: its colour matrix (code {code} of H.273) cannot be computed; expected {known} or RGB.")


def _turn(frame: av.VideoFrame) -> tuple[tuple[str, ...], bool, str]:
    """Filters that turn a frame upright, whether they exchange rows and columns, and a note if they do not suffice."""
    data = next((entry for entry in frame.side_data if entry.type.name == "DISPLAYMATRIX"), None)
    if data is None:
        return (), False, ""
    a, b, _, c, d = struct.unpack("=5i", bytes(data)[:20])
    angle = math.degrees(math.atan2(b, a))
    quarter = round(angle / 90) % 4
    if abs(angle - 90 * round(angle / 90)) >= 1:
        return (), False, f"its rotation by {angle:.0f}° is not applied"
    mirrored = a * d - b * c < 0
    turns = {0: (), 1: ("transpose=clock",), 2: ("hflip", "vflip"), 3: ("transpose=cclock",)}[quarter]
    return (*(("vflip",) if mirrored else ()), *turns), quarter % 2 == 1, ""


def _losses(video: Video, frame: av.VideoFrame) -> Iterator[str]:
    pixels, output = av.VideoFormat(video.pixels), av.VideoFormat(video.output_format(video.width))
    if any(component.is_alpha for component in pixels.components):
        yield f"its transparency is lost ({video.pixels})"
    bits = pixels.components[0].bits
    if bits > output.components[0].bits and not pixels.has_palette:
        yield f"its {bits} bits are written as {output.components[0].bits}"
    if video.interlaced and not video.settings.deinterlace:
        yield "it is interlaced and is restored as it is, both fields in a frame; --deinterlace makes whole frames"
    if hdr := _HDR_TRANSFERS.get(video.tags[2]):
        yield f"it is HDR ({hdr}): restored on its coded values, though networks are trained on SDR"
    kinds = {entry.type.name for entry in frame.side_data}
    named = {
        "MASTERING_DISPLAY_METADATA": "mastering display",
        "CONTENT_LIGHT_LEVEL": "content light level",
        "DYNAMIC_HDR_PLUS": "HDR10+",
        "DOVI_METADATA": "Dolby Vision",
        "DOVI_RPU_BUFFER": "Dolby Vision",
        "A53_CC": "closed captions",
        "STEREO3D": "stereo 3D",
        "SPHERICAL": "spherical projection",
        "ICC_PROFILE": "colour profile",
    }
    if lost := sorted({named[kind] for kind in kinds & named.keys()}):
        yield f"data of its frames is lost: {', '.join(lost)}"


def timed_frames(video: Video, damage: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    """Every frame ``(H, W, 3)`` RGB, uint8 or uint16, with its time stamp in ``video.time_base``; time stamps rise.

    ``damage`` gets what is damaged, where ``video.settings`` lets that pass. A DataError if they do not, or if the
    frames change.
    """
    with opened(video.path) as container:
        stream = main_stream(container, video.path)
        if not video.settings.damaged:
            stream.codec_context.options = {"err_detect": "explode"}  # or errors are painted over
        graph = None
        shift = round(video.start / video.time_base)
        for frame in _stamped(_decoded(container, stream, video, damage), video, damage):
            if graph is None and frame is None:
                return
            graph = graph or _upright_rgb(video, frame)
            try:
                graph.vpush(frame)
                for ready in _pulled(graph):
                    yield ready.pts - shift, ready.to_ndarray().copy()  # PyAV gives a view of the frame's buffer
            except av.FFmpegError as error:
                raise DataError(f"{video.path}: its frames cannot be made RGB: {reason(error)}.") from None


def read_frames(video: Video) -> Iterator[np.ndarray]:
    """The frames ``(H, W, 3)`` RGB, uint8 or uint16; a DataError if the source is damaged."""
    for _, frame in timed_frames(video, []):
        yield frame


def _stamped(frames: Iterator[av.VideoFrame | None], video: Video, damage: list[str]) -> Iterator[av.VideoFrame | None]:
    """Frames of one size, with time stamps that rise."""
    step = max(round(1 / (Fraction(video.rate) * video.time_base)), 1)
    shape, last = None, None
    for frame in frames:
        if frame is not None:
            found = f"{frame.width}×{frame.height} {frame.format.name}"
            shape = shape or found
            if found != shape:
                raise DataError(f"{video.path}: its frames change from {shape} to {found}; expected one size.")
            if frame.pts is None:  # AVI tells when frames are decoded, not when they are shown
                early = frame.dts or 0
                frame.pts = early if last is None or early > last + 3 * step else last + step
            if last is not None and frame.pts <= last:
                if (last - frame.pts) * video.time_base > 1:
                    _damaged(video, damage, f"time runs back at {float(last * video.time_base):.2f} s")
                frame.pts = last + 1
            last = frame.pts
            # the scaler refuses some curves and primaries, which it is not to convert anyway
            frame.color_trc = frame.color_primaries = _UNSPECIFIED
        yield frame


def _decoded(
    container: av.container.InputContainer, stream: av.VideoStream, video: Video, damage: list[str]
) -> Iterator[av.VideoFrame | None]:
    """Frames as the decoder gives them; None at their end."""
    last = Fraction(0)
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            frames = packet.decode() if packet is not None else [None]
        except av.FFmpegError as error:
            _damaged(video, damage, f"{reason(error)}, after {float(last):.2f} s")
            continue  # a generator that raised has ended
        for frame in frames:
            if frame is not None:
                last = (frame.pts or 0) * stream.time_base
                if frame.is_corrupt:
                    _damaged(video, damage, f"a frame is incomplete at {float(last):.2f} s")
            yield frame
        if packet is None:
            return


def _damaged(video: Video, damage: list[str], what: str) -> None:
    if not video.settings.damaged:
        raise DataError(f"{video.path}: the source is damaged: {what}; --damaged restores what can be decoded of it.")
    damage.append(what)


def check_whole(video: Video, damage: list[str]) -> int:
    """Read the packets of the whole file, without decoding, so that an incomplete one is known before hours of work.

    Returns how many the video stream has: about as many as frames. DataErrors as of :func:`timed_frames`.
    """
    size, told_size = video.path.stat().st_size, _told_size(video.path)
    if size < told_size:
        _damaged(video, damage, f"it ends after {size:,} of {told_size:,} bytes")
    with opened(video.path) as container:
        main = main_stream(container, video.path)
        count, end, last, gap = 0, Fraction(0), None, Fraction(0)
        try:
            with av.logging.Capture() as logs:
                for packet in container.demux():
                    known = [stamp for stamp in (packet.dts, packet.pts) if stamp is not None]
                    if not packet.size or not known:
                        continue
                    stamp = known[0] * packet.time_base
                    end = max(end, (known[-1] + (packet.duration or 0)) * packet.time_base)
                    if packet.is_corrupt:
                        _damaged(video, damage, f"a packet is incomplete at {float(stamp):.2f} s")
                    if packet.stream.index == main.index:
                        count += 1
                        gap = max(gap, stamp - last) if last is not None else gap
                        last = stamp
        except av.FFmpegError as error:
            _damaged(video, damage, f"{reason(error)}, after {float(end):.2f} s")
        for _, name, text in logs:
            if name == container.format.name:  # what it passes over, such as a broken cluster of Matroska
                _damaged(video, damage, text.strip())
        told = Fraction(container.duration or 0, 10**6)
        end -= Fraction(container.start_time or 0, 10**6) if video.start else 0
        if end + gap < told * Fraction(99, 100) - Fraction(1, 10):
            _damaged(video, damage, f"it ends after {float(end):.2f} of {float(told):.2f} s")
        elif container.format.name == "mpegts" and all(container.size % size for size in (188, 192, 204)):
            _damaged(video, damage, "its last packet is cut")
        elif container.format.name == "avi" and count < main.frames * 0.99 - 2:
            _damaged(video, damage, f"it holds {count} of {main.frames} frames")
        return count


def _told_size(path: Path) -> int:
    """How many bytes the outermost parts of an MP4 or AVI file tell that it has at least; 0 of other formats."""
    place = told = 0
    with open(path, "rb") as file:
        while len(head := file.read(16)) == 16:
            kind, size = head[4:8], int.from_bytes(head[:4], "big")
            if head[:4] == b"RIFF":
                kind, size = b"RIFF", 8 + int.from_bytes(head[4:8], "little")
            elif size == 1:
                size = int.from_bytes(head[8:], "big")
            if size < 8 or not kind.isalnum() or (kind == b"RIFF" and size >= 1 << 32):  # open, or something else
                break
            place += size
            told = place if kind in _OUTERMOST else told
            file.seek(place)
    return told


def _upright_rgb(video: Video, frame: av.VideoFrame) -> av.filter.Graph:
    filters = []
    if video.interlaced and video.settings.deinterlace:
        filters.append("bwdif=mode=send_frame:parity=auto:deint=all")
    full = video.tags[3] == _FULL_RANGE or video.pixels.startswith("yuvj")
    rows = int(bool(video.interlaced) and not video.settings.deinterlace)
    scale = f"scale=in_range={'full' if full else 'limited'}:interl={rows}:{_SCALING}"
    if not (frame.format.is_rgb or frame.format.has_palette):
        scale += f":in_color_matrix={_SCALER_NAMES.get(video.matrix, video.matrix)}"
    else:
        scale = f"scale={_SCALING}"
    filters += [scale, f"format={'rgb48le' if video.deep else 'rgb24'}", *video.turn]
    size = frame.width, frame.height
    return filter_graph(size, frame.format.name, video.time_base, filters, (frame.colorspace, frame.color_range))


def ycbcr(video: Video, size: tuple[int, int], pixels: str) -> av.filter.Graph:
    """The way back: from RGB frames ``(columns, rows)`` to the pixel format of the result."""
    full = output_tags(video, size[0])[3] == _FULL_RANGE
    rows = int(bool(video.interlaced) and not video.settings.deinterlace)
    matrix = _SCALER_NAMES.get(video.matrix, video.matrix)
    scale = f"scale=out_color_matrix={matrix}:out_range={'full' if full else 'limited'}:interl={rows}:{_SCALING}"
    source = "rgb48le" if video.deep else "rgb24"
    return filter_graph(size, source, 1 / Fraction(video.rate), [scale, f"format={pixels}"], (_RGB, _FULL_RANGE))


def output_tags(video: Video, width: int) -> tuple[int, int, int, int]:
    """What a result of this many columns tells of its colours: what the source does, if that decides the matrix."""
    matrix, primaries, transfer, span = video.tags
    pixels = av.VideoFormat(video.pixels)
    rgb = pixels.is_rgb or pixels.has_palette
    if rgb or (matrix not in _MATRICES and width != video.width):
        matrix = next(code for code, name in _MATRICES.items() if name == video.matrix)
    if rgb:
        span = 1
    elif video.pixels.startswith("yuvj"):
        span = _FULL_RANGE
    return matrix, primaries, transfer, span


def filter_graph(
    size: tuple[int, int], pixels: str, time_base: Fraction, filters: list[str], colours: tuple[int, int]
) -> av.filter.Graph:
    """A chain of filters for frames of ``size`` (columns, rows)."""
    graph = av.filter.Graph()
    graph.threads = 1
    source = f"video_size={size[0]}x{size[1]}:pix_fmt={pixels}:time_base={time_base.numerator}/{time_base.denominator}"
    nodes = [graph.add("buffer", f"{source}:colorspace={colours[0]}:range={colours[1]}")]
    for entry in filters:
        name, _, args = entry.partition("=")
        nodes.append(graph.add(name, args or None))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return
