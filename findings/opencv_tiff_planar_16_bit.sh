#!/usr/bin/env bash
# A 16-bit RGB TIFF whose samples lie in planes (PlanarConfiguration 2, as Photoshop "per channel" and GDAL write it)
# comes back from OpenCV 5.0.0 with scrambled values and no error, while the same image with 8 bits is right. One
# would expect the same image in both depths, or None.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python==5.0.0.93 numpy==2.4.6 tifffile==2026.3.3 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
8 bits: shape (8, 12, 3), largest error 0 of 255 levels
16 bits: shape (8, 12, 3), largest error 195 of 255 levels
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import cv2, numpy as np, tifffile

y, x = np.mgrid[:8, :12]
image = np.stack([60 + 2 * x, 80 + 2 * y, 120 + x + y], 2)
for bits, dtype, factor in ((8, np.uint8, 1), (16, np.uint16, 257)):
    samples = (image * factor).astype(dtype)
    tifffile.imwrite("planar.tif", np.moveaxis(samples, 2, 0), photometric="rgb", planarconfig="separate")
    seen = cv2.imread("planar.tif", cv2.IMREAD_UNCHANGED)[..., ::-1]
    error = np.abs(seen.astype(int) - samples).max() / factor
    print(f"{bits} bits: shape {seen.shape}, largest error {error:.0f} of 255 levels")
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
