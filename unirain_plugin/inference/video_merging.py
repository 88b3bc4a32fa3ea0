"""The film put together: restored frames, and sound, subtitles, covers, chapters and tags of the source."""

import heapq
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from av.stream import Discard, Disposition

from unirain_plugin.inference.video_reading import COLOURS, Video, main_stream, opened, output_tags, reason

_LOSSLESS = {"matroska": "flac", "mp4": "alac", "mov": "alac"}  # what sound becomes that a format cannot hold as it is
_OF_THE_OLD_FILE = (
    *("major_brand", "minor_version", "compatible_brands", "encoder", "duration", "bps", "number_of_", "_statistics"),
    *("vendor_id", "rotate", "alpha_mode"),
)
"""Beginnings of tags that tell of the source's file or stream, not of the film."""


@dataclass(frozen=True)
class Plan:
    """What becomes of the source's other streams."""

    format: str  # the result's
    copied: tuple[int, ...]  # indices of streams that are copied
    encoded: tuple[int, ...]  # indices of streams of sound that are encoded anew, without loss
    notes: tuple[str, ...]  # what is left out or changed, and why


def plan_streams(video: Video, target: Path) -> Plan:
    """Try the source's streams in the result's format, before any frame is restored."""
    kind = {".mkv": "matroska", ".mov": "mov"}.get(target.suffix.lower(), "mp4")
    copied, encoded, notes = [], [], []
    with opened(video.path) as container:
        main = main_stream(container, video.path)
        for stream in container.streams:
            codec = stream.codec_context.name if stream.codec_context is not None else stream.name or "unknown"
            name = f"{stream.type} stream {stream.index} ({codec})"
            cover = bool(stream.disposition & Disposition.attached_pic)
            if stream.index == main.index or stream.discard == Discard.all:  # chapters, as QuickTime has them
                continue
            if "timecode" in stream.metadata.keys() & main.metadata.keys():  # written anew from the film's own
                continue
            if stream.type == "video" and not cover:
                notes.append(f"{name} is left out: one is restored")
            elif (refusal := _refusal(kind, stream, cover)) is None:
                copied.append(stream.index)
            elif stream.type == "audio" and stream.codec_context is not None:
                encoded.append(stream.index)
                notes.append(f"{name} is encoded anew as {_LOSSLESS[kind]}, without loss: {refusal}")
            else:
                notes.append(f"{name} is left out: {refusal}")
    return Plan(kind, tuple(copied), tuple(encoded), tuple(notes))


def _refusal(kind: str, stream: av.stream.Stream, cover: bool) -> str | None:
    if kind == "matroska" and (cover or stream.type == "attachment"):
        return None
    if stream.type == "attachment":
        return f"{kind} holds no attachments"
    try:
        with av.open(io.BytesIO(), "w", format=kind) as trial:
            _copy_of(trial, stream)
            trial.start_encoding()
    except (av.FFmpegError, ValueError) as error:
        return reason(error)
    return None


def _copy_of(output: av.container.OutputContainer, stream: av.stream.Stream) -> av.stream.Stream:
    copy = output.add_stream_from_template(stream, opaque=True)
    copy.metadata.update(_stream_tags(stream))
    copy.disposition = stream.disposition
    return copy


def _told(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.lower().startswith(_OF_THE_OLD_FILE)}


def _stream_tags(stream: av.stream.Stream) -> dict[str, str]:
    """What a stream's tags tell. MP4's ``name`` is called ``title`` when it is written."""
    tags = _told(stream.metadata)
    return {"title" if key == "name" else key: value for key, value in tags.items()}


def merge(
    target: Path, video: Video, plan: Plan, parts: Sequence[Path], stamps: Sequence[int], width: int
) -> tuple[str, ...]:
    """Write the whole film to ``target``, whose name tells nothing of the format.

    ``parts`` are files of restored frames of ``width`` columns, in order, whose time stamps count frames; ``stamps``
    are their times in ``video.time_base``. Returns what of the source's tags the format does not hold. An
    av.FFmpegError if the format refuses something.
    """
    options = {}
    if plan.format != "matroska":
        with opened(video.path) as source:
            dotted = any("." in key for key in source.metadata)  # com.apple.quicktime.model and its like
        options["movflags"] = "+faststart+write_colr" + "+use_metadata_tags" * dotted
    with (
        opened(video.path) as source,
        av.open(str(target), "w", format=plan.format, options=options) as output,
        av.open(str(parts[0])) as first,
    ):
        output.metadata.update(_told(source.metadata))
        main = main_stream(source, video.path)
        film = output.add_stream_from_template(first.streams.video[0], opaque=True, time_base=video.time_base)
        gaps = np.diff(np.asarray(stamps)) * float(video.time_base)
        uneven = abs(gaps - 1 / float(Fraction(video.rate)))
        # as finely as time stamps and milliseconds go
        steady = not len(gaps) or float(uneven.max()) <= float(video.time_base) + 1e-3
        film.codec_context.framerate = Fraction(video.rate) if steady else 0
        for name, code in zip(COLOURS, output_tags(video, width), strict=True):
            setattr(film.codec_context, name, code)
        film.metadata.update(_stream_tags(main))
        film.disposition = main.disposition
        tracks = _tracks(output, source, plan)
        ticks = [(chapter, round(video.start / chapter["time_base"])) for chapter in source.chapters()]
        output.set_chapters([{**c, "start": c["start"] - shift, "end": c["end"] - shift} for c, shift in ticks])
        frames = _frame_packets(parts, stamps, video, film)
        others = _other_packets(source, tracks, video.start)
        for packet in heapq.merge(frames, others, key=lambda packet: packet.dts * packet.time_base):
            output.mux(packet)
    return _lost_tags(video.path, target, plan)


def _lost_tags(source: Path, target: Path, plan: Plan) -> tuple[str, ...]:
    with opened(source) as before, opened(target) as after:
        kept = {key.lower() for key in after.metadata}
        lost = sorted(key for key in _told(before.metadata) if key.lower() not in kept)
        main = main_stream(before, source).index
        streams = [before.streams[index] for index in (main, *plan.copied, *plan.encoded)]
        of_streams = _counted_tags(streams) - _counted_tags(after.streams)
    notes = [f"tags are lost: {', '.join(lost)}"] if lost else []
    if of_streams:
        named = sorted({f"{kind} {key}" for kind, key, _ in of_streams})
        notes.append(f"tags of its streams are lost: {', '.join(named)}")
    return tuple(notes)


def _counted_tags(streams: Iterable[av.stream.Stream]) -> Counter[tuple[str, str, str]]:
    """How many streams of a kind have a tag and value. Languages may change their code (deu, ger); und is none."""
    return Counter(
        (stream.type, key.lower(), "" if key == "language" else value)
        for stream in streams
        for key, value in _stream_tags(stream).items()
        if value != "und"
    )


def _frame_packets(
    parts: Sequence[Path], stamps: Sequence[int], video: Video, film: av.VideoStream
) -> Iterator[av.Packet]:
    rate = Fraction(video.rate)
    step = max(round(1 / (rate * video.time_base)), 1)

    def time_of(index: int) -> int:  # rises with the index, so decoding order stays in order
        if index < 0:
            return stamps[0] + index * step
        return stamps[index] if index < len(stamps) else stamps[-1] + (index - len(stamps) + 1) * step

    base = 0
    for part in parts:
        count = 0
        with av.open(str(part)) as container:
            for packet in container.demux(video=0):
                if not packet.size:
                    continue
                shown, decoded = (base + round(x * packet.time_base * rate) for x in (packet.pts, packet.dts))
                packet.time_base = video.time_base
                packet.pts, packet.dts = time_of(shown), time_of(decoded)
                packet.duration = time_of(shown + 1) - time_of(shown)
                packet.stream = film
                count += 1
                yield packet
        base += count


_Track = Callable[[av.Packet], list[av.Packet]]  # what a packet of the source becomes; an empty one ends its stream


def _copied(packet: av.Packet, stream: av.stream.Stream) -> list[av.Packet]:
    if not packet.size:
        return []
    if packet.dts is None and packet.pts is None:  # a cover has no time
        packet.pts = packet.dts = 0
    packet.stream = stream
    return [packet]


def _encoded(packet: av.Packet, stream: av.AudioStream) -> list[av.Packet]:
    encoded = [out for frame in packet.decode() for out in stream.encode(frame)]
    return encoded + (stream.encode(None) if not packet.size else [])


def _lossless(output: av.container.OutputContainer, source: av.AudioStream, codec: str) -> av.AudioStream:
    """A stream for sound that is encoded anew."""
    sound = source.codec_context
    stream = output.add_stream(codec, rate=sound.sample_rate)
    narrow = sound.format.bytes <= 2 and not sound.format.name.startswith("flt")
    planar = "p" if codec == "alac" else ""
    stream.codec_context.format = f"{'s16' if narrow else 's32'}{planar}"
    stream.codec_context.layout = sound.layout
    stream.metadata.update(_stream_tags(source))
    stream.disposition = source.disposition
    return stream


def _tracks(output: av.container.OutputContainer, source: av.container.InputContainer, plan: Plan) -> dict[int, _Track]:
    tracks: dict[int, _Track] = {}
    for stream in source.streams:
        cover = bool(stream.disposition & Disposition.attached_pic)
        if stream.index in plan.encoded:
            tracks[stream.index] = partial(_encoded, stream=_lossless(output, stream, _LOSSLESS[plan.format]))
        elif stream.index not in plan.copied:
            continue
        elif stream.type == "attachment":
            kind = stream.mimetype or "application/octet-stream"
            output.add_attachment(stream.name or "attachment", kind, stream.data)
        elif cover and plan.format == "matroska":
            kind = {"mjpeg": "jpeg"}.get(stream.codec_context.name, stream.codec_context.name)
            data = next((bytes(packet) for packet in source.demux(stream) if packet.size), b"")
            source.seek(0)
            output.add_attachment(stream.metadata.get("filename", f"cover.{kind}"), f"image/{kind}", data)
        else:
            tracks[stream.index] = partial(_copied, stream=_copy_of(output, stream))
    return tracks


def _other_packets(
    source: av.container.InputContainer, tracks: dict[int, _Track], shift: Fraction
) -> Iterator[av.Packet]:
    streams = [source.streams[index] for index in tracks]
    last: dict[int, int] = {}
    for packet in source.demux(streams) if streams else ():
        for out in tracks[packet.stream.index](packet):
            ticks = round(shift / out.time_base)
            out.dts = (out.pts if out.dts is None else out.dts) - ticks
            out.pts = out.dts if out.pts is None else out.pts - ticks
            before = last.get(out.stream.index, out.dts)
            if out.dts < before:  # a damaged source's clock may run back
                out.dts, out.pts = before, max(out.pts, before)
            last[out.stream.index] = out.dts
            yield out
