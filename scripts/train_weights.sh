#!/usr/bin/env bash
# UniRain-Tiny's weights from nothing: photographs of free packages (Debian, scikit-image, scikit-learn), rain, training.
#   bash scripts/train_weights.sh                          on Debian or Ubuntu; 3 hours on two cores
#   bash scripts/train_weights.sh PHOTOGRAPHS HELD_OUT     with clean photographs of your own
# Stopped, it goes on where it was.
set -euo pipefail
photos=${1:-datasets/photographs/train} held_out=${2:-datasets/photographs/held_out}
synthesize="python -m unirain_plugin synthesize-rain --resume"
if [ $# = 0 ] && [ ! -d datasets/photographs/held_out ]; then
    packages=$(mktemp -d)
    (
        cd "$packages"
        apt-get download opencv-doc plasma-workspace-wallpapers lomiri-wallpapers-{16,20}.04 mate-backgrounds \
            gnome-backgrounds gcompris-qt-data
        for package in *.deb; do dpkg -x "$package" .; done
        pip download --no-deps scikit-learn && python -m zipfile -e scikit_learn*.whl .
    )
    python - "$packages" datasets/photographs <<'END'
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import skimage

source, target = map(Path, sys.argv[1:])
share, skimage_data = source / "usr/share", Path(skimage.__file__).parent / "data"
PLACES = {  # group: (where, names)
    "lomiri": (share / "backgrounds", "Bridge Dragonfly Picture_0B Picture_1A Wine aitzgorri free friends greentock life "
               "picosdeeuropa seeding sunset"),
    "mate": (share / "backgrounds/mate/nature", "Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm "
             "TwoWings Wood YellowFlower"),
    "plasma": (share / "wallpapers", "BytheWater ColdRipple ColorfulCups DarkestHour FallenLeaf Grey Kite OneStandsOut "
               "summer_1am"),
    "gnome": (share / "backgrounds/gnome", "wood-l pixels-l"),
    "opencv": (share / "doc/opencv-doc/examples/data", "aloeL baboon basketball1 board box_in_scene building cards "
               "ela_original fruits graf1 home leuvenA rubberwhale1 squirrel_cls"),
    "skimage": (skimage_data, "astronaut coffee motorcycle_left motorcycle_right"),
    "sklearn": (source / "sklearn/datasets/images", "china flower"),
}  # fmt: skip
ACTIVITIES = "erase explore_farm_animals explore_monuments explore_world_animals explore_world_music".split()
HELD_OUT = "Bridge friends picosdeeuropa Garden Storm home BytheWater ColorfulCups".split()


def write(image, group, name, factor=1):
    factor = min(factor, 1280 / max(image.shape[:2]))
    image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    folder = target / ("held_out" if name in HELD_OUT else "train")
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{group}_{name}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 94])


for group, (place, names) in PLACES.items():
    for name in names.split():
        pattern = f"{name}/contents/images/2560x1600.*" if group == "plasma" else f"{name}[._]*"
        write(cv2.imread(str(sorted(place.glob(pattern))[0])), group, name)
video = cv2.VideoCapture(str(share / "doc/opencv-doc/examples/data/vtest.avi"))  # a street
frames = [video.read()[1] for _ in range(451)]
for number in (50, 450):
    write(frames[number], "opencv", f"vtest_{number}")
for activity in ACTIVITIES:  # WebP and JPEG, one after the other in an archive; shrunk, what compression left is small
    content = (share / f"gcompris-qt/rcc/{activity}.rcc").read_bytes()
    for number, start in enumerate(re.finditer(rb"RIFF....WEBP|\xff\xd8\xff\xe0", content, re.DOTALL)):
        image = cv2.imdecode(np.frombuffer(content, np.uint8, offset=start.start()), cv2.IMREAD_COLOR)
        if image is not None and (edge := min(image.shape[:2])) >= 384:
            write(image, "gcompris", f"{activity}_{number}", max(2 / 3, 384 / edge))
END
fi
$synthesize --input "$photos" --output datasets/weights --size 384 --per-image 18 --vary-rain --rain-scale 2 \
    --dry-share 0.2 --seed 21 --workers 2
$synthesize --input "$held_out" --output datasets/weights_val --size 256 --seed 77
OMP_NUM_THREADS=1 torchrun --nproc_per_node=2 -m unirain_plugin.train --launcher pytorch --auto_resume \
    -opt options/train/weights/train_UniRain-Tiny_weights.yml
python -m unirain_plugin export --weights experiments/train_UniRain-Tiny_weights/models/net_g_latest.pth \
    --format safetensors --sizes 640 427 --context 384 -o UniRain-Tiny.safetensors
