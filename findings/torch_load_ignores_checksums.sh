#!/usr/bin/env bash
# torch.save 2.14.1 writes a CRC-32 for every tensor of a .pth file (the archive is a ZIP file), and torch.load does not
# compare it: weights of which a byte has changed on the disk load without a word, with a wrong value. One would expect
# an error, as the zipfile module of Python gives. A safetensors 0.8.0 file has no checksum and loads likewise.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.14.1 numpy==2.4.6 safetensors==0.8.0 2>"$work/pip.log" ||
    { cat "$work/pip.log"; exit 1; }
cat >"$work/expected" <<'EXPECTED'
net.pth loads as [0.5, 1.7014118346046923e+38, 0.5]
net.safetensors loads as [0.5, 1.7014118346046923e+38, 0.5]
zipfile says net/data/0
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | tee seen) <<'PYTHON'
import zipfile
import torch
from safetensors.torch import load_file, save_file

weights = {"weight": torch.full((64,), 0.5)}
torch.save(weights, "net.pth")
save_file(weights, "net.safetensors")
for name, load in (("net.pth", lambda path: torch.load(path, weights_only=True)), ("net.safetensors", load_file)):
    data = bytearray(open(name, "rb").read())
    at = data.find(bytes.fromhex("0000003f") * 64) + 4 * 10 + 3  # the upper byte of the eleventh value
    data[at] ^= 0x40
    open(name, "wb").write(data)
    print(name, "loads as", load(name)["weight"][9:12].tolist())
print("zipfile says", zipfile.ZipFile("net.pth").testzip())
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
