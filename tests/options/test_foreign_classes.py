"""Models, data sets and networks of somebody else's: what they need we cannot know, so nothing of it is refused."""

import pytest
import yaml
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.models.sr_model import SRModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY
from option_texts import STOCK, UNIRAIN
from torch import nn

from unirain_plugin.errors import OptionError
from unirain_plugin.options import check_options


class LeavesEarly(SRModel):
    """Reads keys of its own, most of them only sometimes."""

    def __init__(self, opt):
        super().__init__(opt)
        if not opt.get("teacher"):
            return
        self.path = opt["teacher"]["path"]
        self.steps = opt["train"]["distill_steps"]

    def init_training_settings(self):
        if self.opt["train"].get("only_evaluate"):
            return
        self.phases = self.opt["train"]["phases"]
        super().init_training_settings()

    def get_optimizer(self, optim_type, params, lr, **kwargs):
        return {"Lion": object}[optim_type]


class OwnPairs(PairedImageDataset):
    """Needs nothing that its base needs."""

    def __init__(self, opt):
        self.crops = opt["gt_sizes"]


class Tolerant(nn.Module):
    def __init__(self, width=8, norm=False):
        super().__init__()


class PadsToWindows(SRModel):
    def test(self):
        return self.opt["network_g"]["window_size"]


class PadsByAnotherName(SRModel):
    def test(self):
        opt = self.opt
        network = opt["network_g"]
        return network["window_size"]


class Careful(SRModel):
    """Needs nothing: ``self.opt["network_g"]["window_size"]`` is not read unless it is there."""

    def __init__(self, opt):
        network, cfg = opt["network_g"], opt.get("train")
        self.steps = cfg.get("distill_steps")
        opt["network_g"]["depth"] = 3
        super().__init__(opt)
        net = self.opt["network_g"]
        self.window = net["window_size"] if "window_size" in net else network.get("window", 8)
        # once it was opt["network_g"]["window"]

    def test(self):
        net = self.net_g
        net = net["window_size"]
        return [net for net in (self.opt["path"],) if net["models"]]


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for registry, *classes in (
        (MODEL_REGISTRY, LeavesEarly, PadsToWindows, PadsByAnotherName, Careful),
        (DATASET_REGISTRY, OwnPairs),
        (ARCH_REGISTRY, Tolerant),
    ):
        monkeypatch.setattr(registry, "_obj_map", {**registry._obj_map, **{cls.__name__: cls for cls in classes}})


def stock(*changes: tuple[str, str]) -> dict:
    text = STOCK
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return yaml.safe_load(text)


def test_keys_behind_an_early_return_or_only_looked_for_are_not_missing():
    assert check_options(stock(("SRModel", "LeavesEarly")), check_paths=False) == []
    assert check_options(stock(("SRModel", "Careful")), check_paths=False) == []
    opt = yaml.safe_load(UNIRAIN.replace("DATA", "nowhere"))
    assert check_options(opt, check_paths=False) == []


def test_own_keys_optimisers_schedules_and_losses_of_a_model_are_its_affair():
    opt = stock(
        ("SRModel", "LeavesEarly"),
        ("type: Adam\n", "type: Lion\n"),
        ("betas: [0.9, 0.99]", "betas: [0.9, 0.99, 0.999]"),
        ("type: MultiStepLR\n", "type: Polynomial\n"),
        ("  pixel_opt:\n", "  mixing_opt: {type: mixup}\n  distilled: 3\n  pixel_opts:\n"),
    )
    opt["scales"] = [1, 2]
    warnings = check_options(opt, "x.yml", check_paths=False)
    assert [text.split(": ")[1] for text in warnings] == [
        "train.mixing_opt.type", "train.optim_g.betas", "scales", "train.pixel_opts",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["total_iter: 300000", "print_freq: 100", "save_img: false", "num_gpu: auto"])
def test_what_the_runner_reads_is_needed_by_every_model_and_its_misspelling_is_an_error(key):
    name = key.split(":")[0]
    with pytest.raises(OptionError, match=f"{name}: is missing"):
        check_options(stock(("SRModel", "LeavesEarly"), (f"{key}\n", "\n")), check_paths=False)
    with pytest.raises(OptionError, match=f"{name}: is missing|Did you mean '{name}'"):
        check_options(stock(("SRModel", "LeavesEarly"), (name, f"{name}s")), check_paths=False)


def test_a_data_set_of_somebody_elses_needs_what_it_needs():
    opt = stock(("PairedImageDataset", "OwnPairs"), ("    gt_size: 192\n", "    gt_sizes: [64, 128]\n"))
    for key in ("dataroot_lq", "io_backend", "use_rot"):
        del opt["datasets"]["train"][key]
    (warning,) = check_options(opt, check_paths=False)
    assert "datasets.train.gt_sizes: unknown key. Did you mean 'gt_size'?" in warning


def test_values_of_a_network_of_somebody_elses_may_be_of_any_kind():
    opt = stock()
    opt["network_g"] = {"type": "Tolerant", "norm": "LayerNorm"}
    (warning,) = check_options(opt, check_paths=False)
    assert "network_g.norm: found the text 'LayerNorm'" in warning
    opt["network_g"]["depth"] = 3
    with pytest.raises(OptionError, match=r"network_g\.depth: Tolerant has no such option\. Known: norm, type, width"):
        check_options(opt, check_paths=False)


@pytest.mark.parametrize("model", [SwinIRModel, PadsToWindows, PadsByAnotherName])
@pytest.mark.parametrize("network", ["EDSR", "SwinIR"])
def test_an_option_that_the_model_wants_of_the_network(model, network):
    opt = stock(("SRModel", model.__name__))
    if network == "SwinIR":
        opt["network_g"] = {"type": "SwinIR"}
    says = "EDSR has no such option" if network == "EDSR" else "the default of SwinIR does not count"
    if model is SwinIRModel:
        with pytest.raises(OptionError, match=rf"network_g\.window_size: is missing; SwinIRModel reads it.*{says}"):
            check_options(opt, check_paths=False)
        del opt["val"], opt["datasets"]["val_1"]  # it is read in validation only
    (warning,) = check_options(opt, check_paths=False)
    assert "network_g.window_size: is missing" in warning
    if network == "SwinIR":
        opt["network_g"]["window_size"] = 8
        assert check_options(opt, check_paths=False) == []


def test_every_stock_class_is_known():
    import basicsr.data
    import basicsr.models  # noqa: F401

    from unirain_plugin.options.toolbox_keys import is_stock

    for registry in (MODEL_REGISTRY, DATASET_REGISTRY):
        ours = [cls for _, cls in registry if cls.__module__.startswith("basicsr.")]
        assert ours and all(is_stock(cls) for cls in ours)
