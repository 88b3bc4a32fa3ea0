"""TIFF files in all arrangements of samples: what tifffile decodes, and of other compressions what is safe elsewhere.

OpenCV scrambles separate planes of 16 bits, multiplies colours by their alpha, and takes white as 0 for black; Pillow
drops the lower 8 of 16 bits. So the samples are read as they are stored, and what they mean is applied here.
"""

import io
from dataclasses import replace

import numpy as np
import tifffile
from PIL import Image
from tifffile import EXTRASAMPLE, PHOTOMETRIC, PLANARCONFIG

from unirain_plugin.data.image_decode import Samples, decode_with_pillow, deep_by_opencv, scaled
from unirain_plugin.data.image_header import check_pixels
from unirain_plugin.errors import DataError

_CHANNELS = {PHOTOMETRIC.MINISWHITE: 1, PHOTOMETRIC.MINISBLACK: 1, PHOTOMETRIC.RGB: 3, PHOTOMETRIC.PALETTE: 1,
             PHOTOMETRIC.SEPARATED: 4, PHOTOMETRIC.YCBCR: 3}  # fmt: skip


def decode_tiff(data: bytes, name: str, limit: int | None = None) -> Samples:
    """Decode a TIFF file of at most ``limit`` pixels (None: the process's); DataError if it cannot be read right."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page = file.pages.first
            check_pixels(page.imagelength, page.imagewidth, name, limit)
            if len(file.pages) > 1:
                what = f"{len(file.pages)} images; expected one (for a film, give a video file)"
                raise DataError(f"{name}: holds {what}.")
            _check(page, name)
            orientation = page.tags.valueof(274, 1)
            try:
                samples = _stored(page, data, name)
            except (ValueError, NotImplementedError) as error:  # a compression or arrangement that needs more
                if isinstance(error, DataError):
                    raise
                return _decoded_elsewhere(page, data, name, error)
            return _meaning(page, samples, orientation if orientation in range(1, 9) else 1)
    except DataError:
        raise
    except Exception as error:  # tifffile raises many kinds for broken files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{name}: the TIFF cannot be decoded: {reason}.") from None


def _check(page: tifffile.TiffPage, name: str) -> None:
    """Refuse what has no meaning as an image of 8 or 16 bits with or without alpha."""
    kind, extra = page.photometric, page.samplesperpixel - _CHANNELS.get(page.photometric, 0)
    told = page.extrasamples[:1]
    reason = None
    if page.dtype is None or page.sampleformat != 1 or page.bitspersample > 16:
        what = page.dtype or f"{page.bitspersample}-bit"
        reason = f"{what} values; expected 8 or 16 bits a channel"
    elif kind not in _CHANNELS:
        reason = f"colours of the kind {getattr(kind, 'name', kind)}; expected grey, RGB, a palette or CMYK"
    elif extra not in (0, 1) or (extra and kind in (PHOTOMETRIC.SEPARATED, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR)):
        reason = f"{page.samplesperpixel} channels; expected grey, RGB, and perhaps alpha"
    elif extra and told == (EXTRASAMPLE.UNSPECIFIED,):
        reason = f"a channel {page.samplesperpixel} that is not said to be alpha (a saved selection?); save it without"
    elif extra and told == (EXTRASAMPLE.ASSOCALPHA,) and kind == PHOTOMETRIC.MINISWHITE:
        reason = "white as 0, multiplied by alpha, which is not read"
    elif page.bitspersample > 8 and kind in (PHOTOMETRIC.SEPARATED, PHOTOMETRIC.PALETTE, PHOTOMETRIC.YCBCR):
        what = {PHOTOMETRIC.SEPARATED: "CMYK", PHOTOMETRIC.PALETTE: "a palette"}.get(kind, "YCbCr")
        reason = f"{what} in more than 8 bits a channel, which is not read"
    if reason:
        raise DataError(f"{name}: holds {reason}.")


def _stored(page: tifffile.TiffPage, data: bytes, name: str) -> np.ndarray:
    ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or min(page.databytecounts) == 0 or max(ends) > len(data):
        raise DataError(f"{name}: the TIFF is truncated: its image data ends beyond {len(data)} bytes.")
    if page.photometric == PHOTOMETRIC.YCBCR:
        raise NotImplementedError("YCbCr")
    samples = page.asarray()
    if samples.ndim == 3 and page.planarconfig == PLANARCONFIG.SEPARATE:
        samples = np.moveaxis(samples, 0, 2)
    return samples.reshape(page.imagelength, page.imagewidth, page.samplesperpixel)


def _meaning(page: tifffile.TiffPage, samples: np.ndarray, orientation: int) -> Samples:
    """Turn stored samples to grey or RGB in all of 8 or 16 bits, alpha straight."""
    if page.photometric == PHOTOMETRIC.PALETTE:
        table = np.asarray(page.colormap) >> 8  # (3, 2^bits), of 16 bits
        return Samples(table.T[samples[..., 0].astype(int)].astype(np.uint8), orientation)
    if page.photometric == PHOTOMETRIC.SEPARATED:
        rgb = Image.fromarray(np.ascontiguousarray(samples), "CMYK").convert("RGB")
        return Samples(np.asarray(rgb), orientation, cmyk=True)
    top = 2**page.bitspersample - 1
    full = np.uint8 if top <= 255 else np.uint16
    if page.photometric == PHOTOMETRIC.MINISWHITE:
        samples = np.concatenate([top - samples[..., :1].astype(full), samples[..., 1:]], 2)
    samples = scaled(samples.astype(full, copy=False), top)
    if page.extrasamples[:1] == (EXTRASAMPLE.ASSOCALPHA,):
        samples = straight(samples)
    return Samples(samples, orientation)


def straight(samples: np.ndarray) -> np.ndarray:
    """Divide the colours by the alpha that they were multiplied with."""
    full, alpha = np.iinfo(samples.dtype).max, samples[..., -1:]
    colours = samples[..., :-1] * (full / np.maximum(alpha, 1))
    return np.concatenate([colours.round().clip(0, full).astype(samples.dtype), alpha], 2)


def _decoded_elsewhere(page: tifffile.TiffPage, data: bytes, name: str, reason: Exception) -> Samples:
    """Compressions that tifffile alone does not decode: LZW, JPEG, …; both decoders turn the image upright."""
    separate = page.planarconfig == PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    if page.bitspersample <= 8 and not (separate and page.extrasamples):
        return replace(decode_with_pillow(data, name), orientation=1)
    pixels = None
    if page.bitspersample == 16 and not separate and page.samplesperpixel != 2:
        pixels = deep_by_opencv(data)
    if pixels is None:
        raise DataError(f"{name}: the TIFF's arrangement of samples is not read in this compression: {reason}. Save it "
                        "uncompressed or as PNG, or install imagecodecs.")  # fmt: skip
    return _meaning(page, pixels, 1)
