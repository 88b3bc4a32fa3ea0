#!/usr/bin/env bash
# In a TIFF with PhotometricInterpretation 0 (WhiteIsZero) the value 0 is white. OpenCV 5.0.0 and Pillow 12.3.0 both
# invert such an image when it has 8 bits, and neither does when it has 16: the same scan is right in one depth and a
# negative in the other. One would expect both depths to look alike.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python==5.0.0.93 numpy==2.4.6 pillow==12.3.0 tifffile==2026.3.3 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
8 bits: stored 60, meant 195, OpenCV 195, Pillow 195
16 bits: stored 60, meant 195, OpenCV 60, Pillow 60
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import cv2, numpy as np, tifffile
from PIL import Image

for bits, dtype, factor in ((8, np.uint8, 1), (16, np.uint16, 257)):
    tifffile.imwrite("scan.tif", np.full((4, 4), 60 * factor, dtype), photometric="miniswhite")
    by_opencv = int(cv2.imread("scan.tif", cv2.IMREAD_UNCHANGED)[0, 0]) // factor
    by_pillow = int(np.asarray(Image.open("scan.tif"))[0, 0]) // factor
    print(f"{bits} bits: stored 60, meant 195, OpenCV {by_opencv}, Pillow {by_pillow}")
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
