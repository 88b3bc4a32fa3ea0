"""Two gloo processes: the weights, logs and figures of one process, and common decisions."""

from pathlib import Path

import pytest
import torch
from model_helpers import REWEIGHTED, TYPES, batch_of, build, loader_of, options, train
from tiny_run import run_on_ranks
from torch import distributed as dist

# Labels are index modulo 4: on rank 0 (even places) and rank 1 (odd places) other types are present.
BATCHES = [[0, 1, 4, 3], [2, 2, 6, 6], [1, 3, 5, 7], [0, 3, 1, 2]]
CASES = {
    "plain": {},
    "accumulated": {"accumulate": 2, "grad_clip": 0.05, "ema_decay": 0.9},
    "uncertainty": {"pixel_opt": {**REWEIGHTED, "mode": "uncertainty"}},
    "released": {"pixel_opt": {**REWEIGHTED, "mode": "released", "base": [{"type": "L1Loss"}, {"type": "SSIMLoss"}]}},
}


def run(case, folder, rank, world_size):
    """Train on this rank's places of each batch, then validate and save images."""
    folder.mkdir(exist_ok=True)
    changes = {"pixel_opt": REWEIGHTED, "optim_g": {"type": "SGD", "lr": 0.1}, "max_nonfinite": 2, **CASES[case]}
    opt = options(folder, val={"best": "psnr/worst"}, aux_weights={"load_balance": 0.1}, **changes)
    opt.update(dist=world_size > 1, rank=rank, world_size=world_size)
    model = build(opt)
    logs = train(model, [batch_of(places[rank::world_size]) for places in BATCHES])
    model.validation(loader_of(length=7), 4, None, save_img=True)
    weights = {k: v for k, v in model.get_bare_model(model.net_g).state_dict().items() if k != "seen" and k != "steps"}
    state = model.cri_pix.get_extra_state()
    return model, {"weights": weights, "logs": logs, "figures": model.metric_results, "state": state}


def plant(model, rank):
    """A NaN on rank 1 alone, twice: nobody steps, everybody stops."""
    from unirain_plugin.errors import TrainingError

    texts = []
    for iteration in (5, 6):
        data = batch_of([0, 1])
        if rank == 1:
            data["lq"][1, 0, 0, 0] = float("nan")
        try:
            train(model, [data], start=iteration)
        except TrainingError as error:
            texts.append(str(error))
    return texts


def worker(rank, folder):
    from basicsr.models.base_model import BaseModel

    from unirain_plugin.runs.distributed import model_to_device

    torch.set_num_threads(1)
    BaseModel.model_to_device = model_to_device
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for case in CASES:
        model, found[case] = run(case, Path(folder) / case, rank, 2)
    found["stops"] = plant(model, rank)
    found["after"] = model.get_bare_model(model.net_g).conv.weight.detach().clone()
    torch.save(found, f"{folder}/rank{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    run_on_ranks(worker, folder)
    return folder, [torch.load(folder / f"rank{rank}.pth", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_train_as_one_and_have_all_figures_and_images(ranks, tmp_path, case):
    folder, found = ranks
    one, two = (each[case] for each in found)
    _, single = run(case, tmp_path / case, 0, 1)
    torch.testing.assert_close(one["weights"], two["weights"], rtol=0, atol=0)
    torch.testing.assert_close(one["weights"], single["weights"], rtol=0, atol=1e-5)
    for alone, together in zip(single["logs"], one["logs"], strict=True):
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-5)
    assert all(one[key] == two[key] for key in ("logs", "figures", "state"))
    if case == "plain":  # not a comparison of equal weights
        assert max(one["logs"][-1][f"w_{name}"] for name in TYPES) > 0.26
    assert {"psnr", "psnr/drs", "psnr/nrd", "psnr/worst", "ssim_y/worst"} <= set(one["figures"])
    saved = sorted(path.name for path in (folder / case / "visualization").rglob("*_4.png"))
    assert len(saved) == 7 + 1  # and the routing image
    assert (folder / case / "models" / "net_g_best.pth").is_file()


def test_figures_are_those_of_one_process(ranks, tmp_path):
    folder, found = ranks
    opt = options(tmp_path, is_train=False)
    opt["path"]["pretrain_network_g"] = str(folder / "plain" / "models" / "net_g_best.pth")
    model = build(opt)
    model.validation(loader_of(length=7), 4, None)
    assert model.metric_results == found[0]["plain"]["figures"]  # to the last bit: sums in the set's order


def test_a_nan_on_one_rank_stops_both(ranks):
    _, found = ranks
    last = list(CASES)[-1]
    for rank in range(2):
        (text,) = found[rank]["stops"]
        assert "stopped at iteration 6" in text
        assert "in/000.png, in/001.png, in/000.png, in/001.png (lq is not finite)" in text
        assert torch.equal(found[rank]["after"], found[rank][last]["weights"]["conv.weight"])
