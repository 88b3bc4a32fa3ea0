#!/usr/bin/env bash
# Pillow 12.3.0 writes a TIFF with an EXIF folder (exposure, date taken) uncompressed, but raises RuntimeError when
# the same image and the same EXIF data are to be compressed by LZW, which goes through libtiff. One would expect the
# folder in both files, or a word that names it.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==12.3.0 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
None {36867: '2024:01:01 00:00:00'}
tiff_lzw RuntimeError('Error setting from dictionary')
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import io
from PIL import Image

exif = Image.Exif()
exif[0x8769] = {36867: "2024:01:01 00:00:00"}
for compression in (None, "tiff_lzw"):
    file = io.BytesIO()
    try:
        Image.new("RGB", (8, 8)).save(file, "TIFF", compression=compression, exif=exif)
        print(compression, dict(Image.open(file).getexif().get_ifd(0x8769)))
    except RuntimeError as error:
        print(compression, repr(error))
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
