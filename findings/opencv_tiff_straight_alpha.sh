#!/usr/bin/env bash
# OpenCV 5.0.0 multiplies the colours of an 8-bit TIFF with straight (unassociated) alpha by that alpha, and returns
# those of a TIFF with premultiplied alpha as they are stored: IMREAD_UNCHANGED gives both kinds premultiplied and
# does not say so. One would expect the stored samples in both cases. Pillow 12.3.0 gives straight colours for both.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python==5.0.0.93 numpy==2.4.6 pillow==12.3.0 tifffile==2026.3.3 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
unassalpha stored [80, 120, 200, 128] OpenCV [40, 60, 100, 128] Pillow [80, 120, 200, 128]
assocalpha stored [40, 60, 100, 128] OpenCV [40, 60, 100, 128] Pillow [79, 119, 199, 128]
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import cv2, numpy as np, tifffile
from PIL import Image

stored = np.full((4, 4, 4), (80, 120, 200, 128), np.uint8)
for kind in ("unassalpha", "assocalpha"):
    samples = stored if kind == "unassalpha" else np.full((4, 4, 4), (40, 60, 100, 128), np.uint8)
    tifffile.imwrite("a.tif", samples, photometric="rgb", extrasamples=[kind])
    on_disk = tifffile.imread("a.tif")[0, 0].tolist()
    blue, green, red, alpha = cv2.imread("a.tif", cv2.IMREAD_UNCHANGED)[0, 0].tolist()
    by_pillow = list(Image.open("a.tif").convert("RGBA").getpixel((0, 0)))
    print(kind, "stored", on_disk, "OpenCV", [red, green, blue, alpha], "Pillow", by_pillow)
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
