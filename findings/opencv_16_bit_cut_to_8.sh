#!/usr/bin/env bash
# OpenCV 5.0.0 reads a PNG of 16 bits a channel as 8 bits (IMREAD_COLOR, what BasicSR and most restoration code use) by
# keeping the upper byte. One would expect the nearest of 256 levels, value / 257 rounded. Dark values come out nearly
# half a level too low in the mean, bright ones half a level too high; PSNR against the 16-bit samples is 5 dB lower.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check opencv-python==5.0.0.93 numpy==2.4.6 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
about 20: equal to the upper byte: True; OpenCV: mean error -0.4 levels, 54 dB; nearest: mean error -0.0 levels, 59 dB
about 128: equal to the upper byte: True; OpenCV: mean error +0.0 levels, 59 dB; nearest: mean error -0.0 levels, 59 dB
about 235: equal to the upper byte: True; OpenCV: mean error +0.4 levels, 54 dB; nearest: mean error -0.0 levels, 59 dB
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import cv2, numpy as np

for grey in (20, 128, 235):
    samples = np.random.default_rng(0).normal(grey * 257, 1000, (256, 256, 3)).round().astype(np.uint16)
    cv2.imwrite("deep.png", samples)
    assert np.array_equal(cv2.imread("deep.png", cv2.IMREAD_UNCHANGED), samples)
    exact, read = samples / 257, cv2.imread("deep.png", cv2.IMREAD_COLOR)
    print(f"about {grey}: equal to the upper byte: {np.array_equal(read, samples >> 8)}", end="")
    for name, levels in (("OpenCV", read), ("nearest", exact.round())):
        psnr = 10 * np.log10(255**2 / np.mean((levels - exact) ** 2))
        print(f"; {name}: mean error {np.mean(levels - exact):+.1f} levels, {psnr:.0f} dB", end="")
    print()
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
