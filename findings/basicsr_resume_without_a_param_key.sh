#!/usr/bin/env bash
# A fine-tuning in BasicSR 1.4.2 begins from weights without parts (a bare state dict), which `param_key_g: ~` says, and
# whatever fits is to be taken (`strict_load_g: false`). When it is resumed, check_resume points to the run's own
# net_g_N.pth, which has parts, but changes the key only if that is params_ema: none of the run's weights is loaded, and
# training goes on from random ones with the optimiser's old state; only warnings name the keys. One would expect the
# run's own weights, as with any other key.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
install() {
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@" 2>"$work/pip.log" ||
        { cat "$work/pip.log"; exit 1; }
}
install torch==2.14.1 torchvision==0.29.1 numpy==2.4.6 cython==3.3.1 setuptools==84.2.1 wheel
install --no-build-isolation basicsr==1.4.2
cat >"$work/expected" <<'EXPECTED'
param_key_g params_ema: read as params, 14 of 14 weights are the run's own
param_key_g None: read as None, 0 of 14 weights are the run's own
EXPECTED
(cd "$work" && venv/bin/python - 2>stderr | grep '^param_key_g' | tee seen) <<'PYTHON'
import sys
import torch
import torchvision.transforms.functional

# torchvision 0.17 has moved this module, which basicsr imports
sys.modules["torchvision.transforms.functional_tensor"] = torchvision.transforms.functional
from basicsr.archs.edsr_arch import EDSR
from basicsr.models.base_model import BaseModel
from basicsr.utils import check_resume

shape = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_block": 2, "upscale": 1}
model = BaseModel({"num_gpu": 0, "is_train": True})
trained = {name: torch.full_like(value, 7.0) for name, value in EDSR(**shape).state_dict().items()}
torch.save({"params": trained, "params_ema": trained}, "net_g_5.pth")
for key in ("params_ema", None):
    path = {"models": ".", "resume_state": "5.state", "strict_load_g": False, "param_key_g": key}
    opt = {"network_g": {}, "path": path}
    check_resume(opt, 5)
    net = EDSR(**shape)
    model.load_network(net, path["pretrain_network_g"], path["strict_load_g"], path["param_key_g"])
    own = sum(torch.equal(value, trained[name]) for name, value in net.state_dict().items())
    print(f"param_key_g {key}: read as {path['param_key_g']}, {own} of {len(trained)} weights are the run's own")
PYTHON
diff "$work/expected" "$work/seen" && echo "as recorded"
