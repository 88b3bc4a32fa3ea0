"""Validation: figures per type, the toolbox's figures without labels, saved images, the best network."""

import copy
import math
import random
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from basicsr.models.sr_model import SRModel
from model_helpers import TYPES, StubSet, TensorBoardStub, batch_of, build, loader_of, model_of, options
from torch.utils.data import DataLoader

from unirain_plugin.errors import OptionError
from unirain_plugin.models.figures import BestFigure
from unirain_plugin.models.routing import RoutingMeter, draw_routing
from unirain_plugin.models.settings import BestSettings
from unirain_plugin.models.training_log import validation_text
from unirain_plugin.models.validating import ImageResult, ValidationResult, images_of_rank, type_names

NAMES = dict(enumerate(TYPES))


def validated(tmp_path, *loaders, save_img=False, **changes):
    """A model that has validated; without loaders the set of eight labelled images."""
    model = model_of(tmp_path, **changes)
    for loader in loaders or (loader_of(),):
        model.validation(loader, 4, None, save_img=save_img)
    return model


class OtherSet(StubSet):
    """The stub set; what another set gives for each image."""

    def __init__(self, change, **opt):
        super().__init__({"name": "val", "length": 2, **opt})
        self.change = change

    def __getitem__(self, index):
        return self.change(super().__getitem__(index))


def result_of(rows, better="higher"):
    """Rows: (label, psnr)."""
    images = [ImageResult(i, label, {"psnr": value}) for i, (label, value) in enumerate(rows)]
    return ValidationResult("val", images, NAMES, {"psnr": better})


def test_figures_and_their_table_by_hand():
    result = result_of([(0, 30.0), (0, 34.0), (3, 20.0), (1, 25.0)])
    assert result.counts == {"drs": 2, "drd": 1, "nrd": 1}
    of_types = {"psnr/drs": 32.0, "psnr/drd": 25.0, "psnr/nrd": 20.0, "psnr/worst": 20.0}
    mean = pytest.approx((32 + 25 + 20) / 3)  # of types, not of images
    assert result.figures() == {"psnr": mean, **of_types}
    assert result.worst("psnr") == ("nrd", 20.0)
    assert result_of([(0, 3.0), (1, 5.0)], better="lower").worst("psnr") == ("drd", 5.0)
    record = {"psnr": {"val": 26.0, "iter": 8}}
    assert validation_text(result_of([(0, 30.0), (3, 20.0)]), record).splitlines() == [
        "Validation val",
        "\t # psnr: 25.0000\tBest: 26.0000 @ 8 iter",
        "\t type   images       psnr",
        "\t drs         1    30.0000",
        "\t nrd         1    20.0000",
        "\t mean        2    25.0000",
        "\t worst                nrd",
    ]


def test_images_without_a_value_or_label_and_infinite_losses():
    figures = result_of([(0, math.nan), (0, 30.0), (1, math.nan)]).figures()
    assert figures["psnr/drs"] == figures["psnr"] == figures["psnr/worst"] == 30.0
    assert math.isnan(figures["psnr/drd"])
    for better in ("higher", "lower"):
        assert result_of([(0, math.nan), (1, 30.0), (2, math.nan)], better).worst("psnr") == ("drd", 30.0)
    images = [ImageResult(i, 0, {}, loss) for i, loss in enumerate((math.inf, 1.0, math.nan))]
    assert ValidationResult("val", images, NAMES, {}).losses() == {"drs": math.inf}
    result = result_of([(None, 30.0), (None, 20.0)])
    assert result.figures() == {"psnr": 25.0}
    assert result.table() == ""
    assert result.worst("psnr") is None


@pytest.mark.parametrize("labels", [(0, 0, 0, 3), (None,) * 4])
def test_a_perfect_image_hides_no_other(labels):
    result = result_of(zip(labels, (math.inf, 30.0, 34.0, 20.0), strict=True))
    figures, left_out = (result.figures(), "1 of 3 drs") if labels[0] == 0 else (result.figures(), "1 of 4 images")
    assert figures["psnr"] == pytest.approx(26.0 if labels[0] == 0 else 28.0)
    assert figures.get("psnr/drs", 32.0) == 32.0
    text = validation_text(result, {"psnr": {"val": 26.0, "iter": 8}})
    assert f"\t psnr: means leave out {left_out} (no finite value)\n" in text
    figures = result_of([(0, math.inf), (1, 30.0), (2, math.inf)]).figures()
    assert figures["psnr/drs"] == math.inf and figures["psnr"] == figures["psnr/worst"] == 30.0
    assert result_of([(0, math.inf), (1, math.inf)]).figures()["psnr"] == math.inf


def test_ranks_have_images_of_their_own_and_labels_their_names():
    for rank in range(3):
        found = [(index, data["lq_path"][0]) for index, data in images_of_rank(loader_of(length=8), rank, 3)]
        assert found == [(index, f"in/{index:03d}.png") for index in range(rank, 8, 3)]
    assert type_names(StubSet({"name": "a", "rain_types": ["drs", "snow"]})) == {0: "drs", 4: "snow"}
    assert type_names(object()) == NAMES
    assert type_names(SimpleNamespace(opt={}, rain_types={"drs": 0, "haze": 4})) == {0: "drs", 4: "haze"}
    assert type_names(SimpleNamespace(opt={"rain_types": ["nrs"]})) == {2: "nrs"}


def test_an_unlabelled_set_gives_the_toolboxs_figures(tmp_path):
    metrics = {
        "psnr": {"type": "calculate_psnr", "crop_border": 2, "test_y_channel": True, "better": "higher"},
        "ssim": {"type": "calculate_ssim", "crop_border": 0, "test_y_channel": False},
    }
    opt = options(tmp_path, "PlainNet", optim_g={"type": "Adam", "lr": 1e-3}, val={"metrics": metrics})
    ours, loader = build(opt), loader_of(labelled=False, length=3)
    torch.manual_seed(0)
    stock = SRModel(copy.deepcopy(opt))
    boards = TensorBoardStub(), TensorBoardStub()
    for model, board in zip((ours, stock), boards, strict=True):
        model.validation(loader, 4, board, save_img=False)
    assert ours.metric_results == stock.metric_results
    assert ours.best_metric_results == stock.best_metric_results
    assert boards[0].scalars == boards[1].scalars


def test_per_type_figures_are_those_of_the_images(tmp_path):
    model, board = model_of(tmp_path), TensorBoardStub()
    model.validation(loader_of(length=8), 4, board)
    expected = []
    for index in (3, 7):  # the labels are index modulo 4
        subset = torch.utils.data.Subset(StubSet({"name": "val"}), [index])
        subset.opt = subset.dataset.opt
        expected.append(validated(tmp_path, DataLoader(subset)).metric_results["psnr"])
    assert model.metric_results["psnr/nrd"] == pytest.approx(sum(expected) / 2, abs=1e-9)
    by_type = [model.metric_results[f"ssim_y/{name}"] for name in TYPES]
    assert model.metric_results["ssim_y"] == pytest.approx(sum(by_type) / 4)
    assert model.metric_results["ssim_y/worst"] == min(by_type)
    assert board.scalars["metrics/val/psnr/nrd"] == [(4, model.metric_results["psnr/nrd"])]
    assert set(model.validation_results) == {"val"}


def test_routing_goes_to_tensorboard_and_now_and_then_to_an_image(tmp_path):
    model, board = model_of(tmp_path), TensorBoardStub()
    model.validation(loader_of(length=4), 4, board)
    share = batch_of([2])["lq"].mean().item()
    assert board.scalars["routing/val/encoder.0/nrs/expert0"] == [(4, pytest.approx(share, abs=1e-6))]
    assert board.scalars["routing/val/decoder.0/nrs/expert1"] == [(4, pytest.approx(share, abs=1e-6))]
    step, drawn, _ = board.images["routing/val"]
    folder = tmp_path / "visualization" / "routing"
    assert step == 4 and np.array_equal(cv2.imread(str(folder / "val_4.png"))[..., ::-1], drawn)
    model, board = model_of(tmp_path), TensorBoardStub()
    model.validation(loader_of(length=2, labelled=False), 4, board)
    share = batch_of([0, 1])["lq"].mean().item()
    assert board.scalars["routing/val/encoder.0/all/expert0"] == [(4, pytest.approx(share, abs=1e-6))]
    (folder / "val_4.png").unlink()
    model = model_of(tmp_path, logger={"routing_freq": 8})
    for iteration in (3, 6, 9, 12, 16):
        model.validation(loader_of(length=4), iteration, None)
    assert {p.name for p in folder.iterdir()} == {"val_9.png", "val_16.png"}


def test_an_output_that_is_not_finite_is_named(tmp_path, warnings_of):
    model = model_of(tmp_path)
    with torch.no_grad():
        model.net_g.out.bias.fill_(float("nan"))
    model.validation(loader_of(length=2), 4, None)
    assert warnings_of[0] == "Validation val: the output for in/000.png is not finite."


def test_heat_map_is_brighter_where_an_expert_is_used_more():
    shares = {"drs": {"layer": np.array([1.0, 0.0])}, "nrd": {"layer": np.array([0.0, 1.0])}}
    drawn = draw_routing(shares, cell=20).astype(int)
    top = 8 + 6 * len("layer")
    left = 9 * 3 + 12
    cells = [[drawn[top + 10 + 20 * row, left + 10 + 20 * column].sum() for column in (0, 1)] for row in (0, 1)]
    assert cells[0][0] == cells[1][1] > 600 > 100 > cells[0][1] == cells[1][0]


def test_meter_averages_over_tiles():
    net = torch.nn.Module()
    net.routing_statistics = lambda: {"a": net.share, "b": net.share.flip(1)}
    meter = RoutingMeter(net)
    for first in (0.2, 0.6):
        net.share = torch.tensor([[first, 1 - first]])
        meter.observe()
    shares = meter.take()
    np.testing.assert_allclose([shares["a"], shares["b"]], [[0.4, 0.6], [0.6, 0.4]], atol=1e-6)
    assert meter.take() == {}


def test_images_are_saved_by_type(tmp_path):
    sets = loader_of(length=4), loader_of("plain", length=1, labelled=False)
    validated(tmp_path, *sets, save_img=True)
    root = tmp_path / "visualization"
    assert (root / "nrd_003" / "nrd_003_4.png").is_file()
    assert (root / "000" / "000_4.png").is_file()  # the toolbox's path
    tested = model_of(tmp_path, is_train=False, val={"suffix": "restored"})
    tested.validation(loader_of("held-out", length=4), "stub", None, save_img=True)
    image = cv2.imread(str(root / "held-out" / "drd" / "001_restored.png"))
    with torch.no_grad():
        expected = tested.net_g(batch_of([1])["lq"])[0].clamp(0, 1).permute(1, 2, 0).numpy()[..., ::-1]
    assert np.abs(image - expected * 255).max() <= 0.51


def test_a_test_run_and_an_average_give_the_figures_and_without_metrics_images_are_saved_only(tmp_path):
    expected = validated(tmp_path).metric_results
    tested, average = model_of(tmp_path, is_train=False), model_of(tmp_path, ema_decay=0.9)
    with torch.no_grad():
        average.net_g.out.weight.fill_(100.0)  # the average is validated
    for model, iteration in ((tested, "stub"), (average, 4)):
        model.validation(loader_of(), iteration, None)
        assert model.metric_results == expected
    model = validated(tmp_path, loader_of(length=1), save_img=True, val={"metrics": None})
    assert (tmp_path / "visualization" / "drs_000" / "drs_000_4.png").is_file()
    assert not hasattr(model, "metric_results")


def test_validation_leaves_random_streams_and_mode_alone(tmp_path):
    def streams():
        return random.random(), float(np.random.rand()), torch.rand(1).item()

    def seed():
        for function in (random.seed, np.random.seed, torch.manual_seed):
            function(1)

    model = model_of(tmp_path)
    seed()
    expected = streams()
    seed()
    model.validation(DataLoader(OtherSet(lambda item: (streams(), item)[1])), 4, None)
    assert streams() == expected
    assert model.net_g.training
    assert model.net_g.seen == 0  # it was evaluated, not trained
    model.net_g.eval()
    model.validation(loader_of(length=1), 8, None)
    assert not model.net_g.training


def test_images_without_ground_truth_are_restored_and_not_measured(tmp_path):
    real = OtherSet(lambda item: {key: value for key, value in item.items() if "gt" not in key}, name="real")
    model = validated(tmp_path)
    model.validation(DataLoader(real), 4, None, save_img=True)
    assert (tmp_path / "visualization" / "drd_001" / "drd_001_4.png").is_file()
    assert math.isnan(model.metric_results["psnr"])


def test_best_network_is_kept_by_the_chosen_figure_and_written_by_one_rank(tmp_path):
    best = {"best": {"metric": "psnr/worst"}}
    model = model_of(tmp_path, val=best)
    model.opt["rank"] = 1
    model.validation(loader_of(length=1), 4, None)
    assert model.best_figure.iteration == 4
    assert not list((tmp_path / "models").iterdir())
    model, path = validated(tmp_path, ema_decay=0.5, val=best), tmp_path / "models" / "net_g_best.pth"
    value, first = model.metric_results["psnr/worst"], torch.load(path)
    assert set(first) == {"params", "params_ema"}
    torch.testing.assert_close(first["params_ema"], dict(model.net_g_ema.state_dict()))
    with torch.no_grad():
        model.net_g_ema.out.bias.add_(1.0)  # worse
    model.validation(loader_of(), 8, None)
    assert model.metric_results["psnr/worst"] < value
    torch.testing.assert_close(torch.load(path), first)
    assert (model.best_figure.value, model.best_figure.iteration) == (value, 4)
    assert [p.name for p in path.parent.iterdir()] == ["net_g_best.pth"]


@pytest.mark.parametrize(
    ("settings", "sets", "values", "improved"),
    [
        (BestSettings("psnr"), "vvvvv", [math.nan, 1, 1, 0.5, 2], [False, True, False, False, True]),
        (BestSettings("niqe"), "vvv", [5, 6, 4], [True, False, True]),
        (BestSettings("psnr", higher=False), "vv", [5, 6], [True, False]),
        (BestSettings("psnr"), "abab", [1, 2, 3, 4], [True, False, True, False]),
        (BestSettings("psnr", dataset="b"), "ab", [1, 1], [False, True]),
    ],
    ids=["ties and nan", "lower is better", "forced", "the first set decides", "a named set decides"],
)
def test_what_improves_the_best_figure(settings, sets, values, improved):
    best = BestFigure(settings, {"psnr": "higher", "niqe": "lower"})
    assert [best.improved(n, {settings.metric: float(v)}, 0) for n, v in zip(sets, values, strict=True)] == improved


def test_a_type_that_the_set_lacks_is_named_and_the_record_of_another_figure_not_taken_up():
    with pytest.raises(OptionError, match=r"val has no figure 'psnr/drz'. Did you mean 'psnr/drs'\?"):
        BestFigure(BestSettings("psnr/drz"), {"psnr": "higher"}).improved("val", {"psnr": 1.0, "psnr/drs": 1.0}, 0)
    saved, same, other = (
        BestFigure(BestSettings(name), {"psnr": "higher", "ssim": "higher"}) for name in ("psnr", "psnr", "ssim")
    )
    saved.improved("val", {"psnr": 30.0}, 4)
    for record in (same, other):
        record.load_state_dict(saved.state_dict())
    assert (same.value, same.dataset, other.iteration) == (30.0, "val", -1)


BY_VALIDATION = {"type": "MultiObjectiveReweightedLoss", "num_types": 4, "source": "val", "base": {"type": "MSELoss"}}


def test_validation_losses_per_type_reach_the_loss_and_are_not_computed_in_vain(tmp_path):
    model, given = model_of(tmp_path, pixel_opt=BY_VALIDATION), []
    model.cri_pix.update_from_validation = given.append
    model.validation(loader_of(length=8), 4, None)
    model.validation(loader_of("second"), 4, None)  # another set is no second update
    (losses,) = given
    assert set(losses) == set(TYPES)
    with torch.no_grad():
        errors = [((model.net_g(b["lq"]) - b["gt"]) ** 2).mean().item() for b in (batch_of([1]), batch_of([5]))]
    assert losses["drd"] == pytest.approx(sum(errors) / 2, rel=1e-5)
    with pytest.raises(OptionError, match="source: val: the set 'val' has no rain types"):
        model.validation(loader_of(labelled=False), 4, None)
    model = model_of(tmp_path)
    model.cri_pix.forward = None
    model.validation(loader_of(), 4, None)


def test_weights_change_with_the_validation_losses(tmp_path):
    model = model_of(tmp_path, pixel_opt={**BY_VALIDATION, "warmup": 0, "window": 3})
    for iteration in (1, 2, 3):
        model.validation(loader_of(length=8), iteration, None)
        with torch.no_grad():
            model.net_g.out.bias.mul_(0.5)
    weights = model.cri_pix.weights
    assert weights.sum().item() == pytest.approx(1)
    assert weights.max() - weights.min() > 1e-3
