#!/usr/bin/env bash
# albumentations' RandomRain has the types drizzle, heavy and torrential. Version 2.0.8 also darkens every image, by a
# factor, so that on a bright scene drizzle costs more PSNR than torrential rain: most of the loss is brightness, not
# rain. One would expect the amount of rain to order the types on every scene, as it does on a dark one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check albumentations==2.0.8 numpy==2.4.6 opencv-python-headless==5.0.0.93 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
dark scene: drizzle 23 dB, torrential 19 dB
bright scene: drizzle 13 dB, torrential 16 dB; drizzle changes the mean by -56 levels
EXPECTED
(cd "$work" && NO_ALBUMENTATIONS_UPDATE=1 venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import albumentations as A
import numpy as np

rows, columns = np.mgrid[:256, :256]
texture = 20 * np.sin(columns / 9) + 20 * np.cos(rows / 13)


def rain(level, kind):
    scene = np.repeat((level + texture).round().astype(np.uint8)[..., None], 3, axis=2)
    transform = A.Compose([A.RandomRain(rain_type=kind, p=1)], seed=1)
    change = [transform(image=scene)["image"].astype(float) - scene for _ in range(8)]
    return np.mean([10 * np.log10(255**2 / np.mean(c * c)) for c in change]), np.mean(change)


(few, _), (many, _) = rain(60, "drizzle"), rain(60, "torrential")
print(f"dark scene: drizzle {few:.0f} dB, torrential {many:.0f} dB")
(few, shift), (many, _) = rain(200, "drizzle"), rain(200, "torrential")
print(f"bright scene: drizzle {few:.0f} dB, torrential {many:.0f} dB; drizzle changes the mean by {shift:.0f} levels")
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
