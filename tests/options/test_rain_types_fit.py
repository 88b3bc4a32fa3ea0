"""Rain types of data sets, loss and best figure: what does not fit is told before the run."""

import json

import pytest
from option_texts import UNIRAIN
from tiny_run import write_rainrag

from unirain_plugin.errors import OptionError
from unirain_plugin.options import load_options

TYPES = "[drs, drd, nrs, nrd]"
LOSS = f"MultiObjectiveReweightedLoss\n    rain_types: {TYPES}"


@pytest.fixture()
def load(rainrag_root, tmp_path):
    """Load the good file with replacements: each (old, new) once, the last occurrence of ``old`` before ``end``."""

    def loading(*changes: tuple[str, str]) -> None:
        text = UNIRAIN.replace("DATA", str(rainrag_root))
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        file = tmp_path / "rain.yml"
        file.write_text(text)
        load_options(file)

    return loading


DATA = f"rain_types: {TYPES}\n    gt_size"
OF_DRS_AND_DRD = "MultiObjectiveReweightedLoss\n    rain_types: [drs, drd]"


def test_a_type_that_the_loss_does_not_know(load):
    for new, says in (
        (OF_DRS_AND_DRD, "rain_types: .*no nrs, nrd, which datasets.train holds; it has drs, drd."),
        (LOSS[:28] + "\n    num_types: 3", "num_types: .*the loss has no nrd, which datasets.train holds"),
    ):
        with pytest.raises(OptionError, match=rf"train\.pixel_opt\.{says}"):
            load((LOSS, new))


def test_types_found_in_the_folder_are_compared_too_where_the_loss_goes_by_name(load, rainrag_root):
    write_rainrag(rainrag_root, per_type=1, types=["snow"])
    with pytest.raises(OptionError, match=r"train\.pixel_opt\.rain_types: the loss has no snow, which datasets\.train"):
        load((DATA, "gt_size"))
    load((DATA, "rain_types: [drs, snow]\n    gt_size"), (LOSS, LOSS[:28] + "\n    num_types: 5"))
    with pytest.raises(OptionError, match=r"the loss has no snow, which datasets\.val holds"):
        load(("mode: paper", "source: val"))


def test_further_types_need_one_order(load, rainrag_root):
    write_rainrag(rainrag_root, per_type=1, types=["haze", "snow"])
    data, loss = "rain_types: [drs, snow, haze]\n    gt_size", "MultiObjectiveReweightedLoss\n    rain_types: [drs, {}]"
    load((DATA, data), (LOSS, loss.format("snow, haze")))
    with pytest.raises(OptionError, match=r"snow, haze: another label than in datasets\.train; list further types in"):
        load((DATA, data), (LOSS, loss.format("haze, snow")))


def test_a_type_without_a_folder_and_another_layout_are_told_before_the_run(load, rainrag_root, tmp_path):
    with pytest.raises(OptionError, match=r"datasets\.train\.rain_types: .*no folder 'snow' for this rain type"):
        load((DATA, "rain_types: [drs, snow]\n    gt_size"))
    (tmp_path / "flat").mkdir()
    with pytest.raises(OptionError, match=r"datasets\.val\.dataroot: .*no rain type found; expected \{type\}/"):
        load((f"dataroot: {rainrag_root}\nnetwork_g", f"dataroot: {tmp_path / 'flat'}\nnetwork_g"))


@pytest.mark.parametrize(
    ("best", "key", "says"),
    [
        ("{metric: psnr/nsr}", "val.best.metric", "datasets.val has no rain type 'nsr'"),
        ("psnr/nsr", "val.best", r"it holds drs, drd, nrs, nrd \(or 'worst'\). Did you mean 'nrs'\?"),
        ("{metric: psnr, dataset: held otu}", "val.best.dataset", r"name 'held otu'. Did you mean 'held out'\?"),
        ("{metric: psnr, dataset: four types}", "val.best.dataset", "There are: held out."),
    ],
)
def test_best_names_a_figure_that_there_will_be(best, key, says, load):
    with pytest.raises(OptionError, match=f": {key}: .*{says}"):
        load(("  save_img: false", f"  save_img: false\n  best: {best}"))
    for good in ("psnr", "psnr/worst", "{metric: psnr/nrd, dataset: held out}"):
        load(("  save_img: false", f"  save_img: false\n  best: {good}"))


LABELLED = "type: DistilledMixedPairedDataset\n    dataroot: {}\n    rain_types: [drs, drd, nrs, nrd]"
UNLABELLED = (
    "type: PairedImageDataset\n    dataroot_gt: {0}/drs/target\n    dataroot_lq: {0}/drs/input\n"
    "    io_backend: {{type: disk}}"
)


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("UniRainModel", LABELLED, None),
        ("UniRainModel", UNLABELLED, "datasets.train (PairedImageDataset) gives it no rain types"),
        ("SRModel", LABELLED, "SRModel gives it no rain types"),
        ("SRModel", UNLABELLED, "SRModel gives it no rain types"),
    ],
)
def test_a_loss_without_labels(model, data, says, load, rainrag_root, warnings_of):
    own = [("  grad_clip: 1.0\n", ""), ("AdamW", "Adam")] if model == "SRModel" else []
    load(("UniRainModel", model), (LABELLED.format(rainrag_root), data.format(rainrag_root)), *own)
    told = [text for text in warnings_of if "no effect" in text]
    assert len(told) == (1 if says else 0)
    assert says is None or f"train.pixel_opt: {says}" in told[0]


def test_validation_losses_need_a_labelled_set(load, rainrag_root):
    labelled = f"    type: DistilledMixedPairedDataset\n    dataroot: {rainrag_root}\nnetwork_g"
    unlabelled = f"    {UNLABELLED.format(rainrag_root)}\nnetwork_g"
    load((labelled, unlabelled))
    with pytest.raises(OptionError, match=r"pixel_opt\.source: found val, but datasets\.val \(PairedImageDataset\)"):
        load((labelled, unlabelled), ("mode: paper", "source: val"))


def test_types_of_the_loss_that_the_data_or_a_manifest_lack_are_a_warning(load, tmp_path, rainrag_root, warnings_of):
    nested = {"retrieved": [{"id": "a", "rain_type": "nrs"}]}
    lines = [{**nested, "lq": "a", "gt": "b", "rain_type": name} for name in ("nrd", "drs", "drs")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = LABELLED.format(rainrag_root)
    manifest = f"type: DistilledMixedPairedDataset\n    manifest: {tmp_path / 'm.jsonl'}"
    for change in ((DATA, "rain_types: [drs, nrd]\n    gt_size"), (data, manifest)):
        load(change)
        assert "train.pixel_opt.rain_types: datasets.train holds no drd, nrs." in warnings_of.pop() and not warnings_of
    with pytest.raises(OptionError, match="the loss has no nrd, which datasets"):
        load((data, manifest), (LOSS, OF_DRS_AND_DRD))
