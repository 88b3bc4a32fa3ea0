#!/usr/bin/env bash
# A grey PNG may name one sample value that is transparent (tRNS). Pillow 12.3.0 scales the pixels of 2- and 4-bit
# images to 8 bits but leaves that value as it is stored, so that convert("RGBA") makes no pixel transparent (in 8
# bits it is right). One would expect the second pixel to be transparent in every depth.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==12.3.0 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
8 bits: mode L, transparent value 85, alpha [255, 0, 255, 255]
4 bits: mode L, transparent value 5, alpha [255, 255, 255, 255]
2 bits: mode L, transparent value 1, alpha [255, 255, 255, 255]
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import io, struct, zlib
from PIL import Image


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


for bits, row, transparent in ((8, bytes([0, 85, 170, 255]), 85), (4, bytes([0x05, 0xAF]), 5), (2, bytes([0b00011011]), 1)):
    header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", transparent))
    file += chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    image = Image.open(io.BytesIO(file))
    alpha = [pixel[3] for pixel in (image.convert("RGBA").getpixel((x, 0)) for x in range(4))]
    print(f"{bits} bits: mode {image.mode}, transparent value {image.info['transparency']}, alpha {alpha}")
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
