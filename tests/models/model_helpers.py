"""A tiny network with experts, a labelled data set and option files in memory, for the tests of the model."""

import copy

import torch
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY
from torch import nn
from torch.nn import functional as F


class StubNet(nn.Module):
    """A 3×3 convolution with a residual, an auxiliary loss, routing shares and a buffer that moves."""

    def __init__(self, width: int = 3):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.out = nn.Conv2d(width, 3, 1)
        self.gate = nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))
        self._shares = None

    def forward(self, x):
        if self.training:
            self.seen = self.seen + 1
            self.steps = self.steps + 1
        share = torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)
        self._shares = share.detach()
        self._aux = (self.gate**2).sum() + (self.gate * share.mean(0)).sum()
        return x + self.out(torch.tanh(self.conv(x)))

    def auxiliary_losses(self):
        return {"load_balance": self._aux}

    def routing_statistics(self):
        return {"encoder.0": self._shares, "decoder.0": self._shares.flip(1)}


class PlainNet(nn.Module):
    """A stock network: no auxiliary losses, no routing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.conv(x)


class StubSet(torch.utils.data.Dataset):
    """Smooth images with noise; the label is the index modulo the number of types."""

    def __init__(self, opt):
        self.opt = opt
        self.rain_types = tuple(opt.get("rain_types", ("drs", "drd", "nrs", "nrd")))

    def __len__(self):
        return self.opt.get("length", 8)

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        size = self.opt.get("size", 16)
        gt = F.interpolate(torch.rand(1, 3, 4, 4, generator=generator), size=(size, size), mode="bilinear")[0]
        lq = (gt + (0.05 + 0.05 * (index % 4)) * torch.randn(gt.shape, generator=generator)).clamp(0, 1)
        item = {"lq": lq, "gt": gt, "lq_path": f"in/{index:03d}.png", "gt_path": f"gt/{index:03d}.png"}
        if self.opt.get("labelled", True):
            item["rain_type"] = index % len(self.rain_types)
        return item


for registry, entries in ((ARCH_REGISTRY, (StubNet, PlainNet)), (DATASET_REGISTRY, (StubSet,))):
    for entry in entries:
        if entry.__name__ not in registry:
            registry.register(entry)


TYPES = ("drs", "drd", "nrs", "nrd")
REWEIGHTED = {"type": "MultiObjectiveReweightedLoss", "num_types": 4, "update_freq": 1, "warmup": 0, "window": 3}


def options(tmp_path, network="StubNet", is_train=True, val=None, logger=None, **train):
    """A complete option dict as ``parse_options`` gives it; what is given goes into its sections."""
    (tmp_path / "models").mkdir(exist_ok=True)
    train = {
        "optim_g": {"type": "AdamW", "lr": 1e-3, "weight_decay": 0.0},
        "scheduler": {"type": "CosineAnnealingRestartLR", "periods": [20], "restart_weights": [1], "eta_min": 1e-6},
        "total_iter": 20,
        "warmup_iter": -1,
        "pixel_opt": {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"},
        **train,
    }
    return {
        "name": "stub", "model_type": "UniRainModel", "scale": 1, "num_gpu": 0, "dist": False, "rank": 0,
        "world_size": 1, "manual_seed": 0, "is_train": is_train,
        "network_g": {"type": network},
        "path": {"models": str(tmp_path / "models"), "visualization": str(tmp_path / "visualization")},
        "datasets": {"train": {"batch_size_per_gpu": 4}, "val": {"name": "val"}},
        "train": copy.deepcopy(train),
        "val": {"val_freq": 4, "save_img": False, "metrics": ["psnr", "ssim", "psnr_y", "ssim_y"], **(val or {})},
        "logger": {"print_freq": 1, "use_tb_logger": False, **(logger or {})},
    }  # fmt: skip


def build(opt, seed: int = 0):
    """The model, with the same weights for the same seed."""
    from basicsr.models import build_model

    torch.manual_seed(seed)
    return build_model(opt)


def model_of(tmp_path, **changes):
    """The model of :func:`options`."""
    return build(options(tmp_path, **changes))


def train(model, batches, start=1):
    """One iteration a batch; what each logs."""
    logs = []
    for iteration, data in enumerate(batches, start=start):
        model.update_learning_rate(iteration, model.opt["train"]["warmup_iter"])
        model.feed_data(data)
        model.optimize_parameters(iteration)
        logs.append(model.get_current_log())
    return logs


def batch_of(indices, **opt):
    """Collate samples of the stub set."""
    return torch.utils.data.default_collate([StubSet(opt)[index] for index in indices])


def planted(value=float("nan"), key="lq", place=2):
    """A batch of four in which one value of one image is another."""
    data = batch_of([0, 1, 2, 3])
    data[key][place, 1, 5, 5] = value
    return data


def loader_of(name="val", **opt):
    """A validation loader of the stub set."""
    return torch.utils.data.DataLoader(StubSet({"name": name, **opt}), batch_size=1)


class TensorBoardStub:
    """Remembers what was written."""

    def __init__(self):
        self.scalars, self.images = {}, {}

    def add_scalar(self, tag, value, step):
        self.scalars.setdefault(tag, []).append((step, value))

    def add_image(self, tag, image, step, dataformats):
        self.images[tag] = (step, image, dataformats)
