#!/usr/bin/env bash
# The third number of a PGM or PPM is the value of white. OpenCV 5.0.0 returns the samples without scaling them to its
# own white (255 or 65535), so that a 10-bit image (1023) read with IMREAD_UNCHANGED is almost black beside any other
# 16-bit image. Pillow 12.3.0 scales. One would expect 1023 to become 65535 and 100 to become 255.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python==5.0.0.93 numpy==2.4.6 pillow==12.3.0 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
white 100: OpenCV [0, 50, 100], Pillow [0, 128, 255]
white 1023: OpenCV [0, 511, 1023], Pillow [0, 32735, 65535]
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import cv2, io
import numpy as np
from PIL import Image

for white, samples in ((100, bytes([0, 50, 100])), (1023, np.array([0, 511, 1023], ">u2").tobytes())):
    file = b"P5\n3 1\n%d\n" % white + samples
    by_opencv = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)[0].tolist()
    print(f"white {white}: OpenCV {by_opencv}, Pillow {np.asarray(Image.open(io.BytesIO(file)))[0].tolist()}")
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
