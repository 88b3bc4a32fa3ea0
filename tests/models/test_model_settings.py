"""Options of the model: defaults, parsing, and what the errors say."""

import pytest
from model_helpers import options

from unirain_plugin.errors import OptionError
from unirain_plugin.models.settings import AUX_WEIGHTS, BestSettings, Settings, TrainingSettings, ValidationSettings
from unirain_plugin.models.unirain_model import UniRainModel


def test_defaults_and_short_forms():
    settings = Settings.parse({"train": {"total_iter": 10, "optim_g": {}}}).train
    assert settings == TrainingSettings()
    assert (settings.amp, settings.accumulate, settings.grad_clip, settings.compile) == ("off", 1, None, False)
    assert Settings.parse({"val": None}).val == ValidationSettings()
    assert Settings.parse({"train": {"amp": False}}).train.amp == "off"
    weights = Settings.parse({"train": {"aux_weights": {"z_loss": 0}}}).train.aux_weights
    assert weights == {**AUX_WEIGHTS, "z_loss": 0.0}
    assert Settings.parse({"val": {"best": "psnr/worst"}}).val.best == BestSettings("psnr/worst")


WRONG = {  # of each key the rule that is its own; what is no number, no text and so on: tests/options
    "train": [
        ({"amp": "bf61"}, r"amp: found the text 'bf61'; expected one of off, bf16, fp16. Did you mean 'bf16'\?"),
        ({"accumulate": 0}, "accumulate: found 0; expected an integer ≥ 1"),
        ({"grad_clip": 0}, "grad_clip: found 0; expected a number > 0"),
        ({"compile": 1}, "compile: found 1; expected true or false"),
        ({"channels_last": "yes"}, "channels_last: found"),
        ({"max_nonfinite": -1}, "max_nonfinite: found"),
        ({"progressive": 3}, "progressive: found 3; expected a list"),
        ({"progressive": [{"iters": 5, "batch_size": 1}]}, r"progressive\[0\].gt_size: is missing"),
        ({"progressive": [{"iters": 5, "gt_size": 8, "batch_size": 0}]}, r"\[0\].batch_size: found 0; expected .* ≥ 1"),
        ({"aux_weights": 0.1}, "aux_weights: found 0.1; expected a section"),
        ({"aux_weights": {"load_balanse": 1}}, r"s.load_balanse: unknown .*. Did you mean 'load_balance'\?"),
        ({"aux_weights": {"z_loss": -1}}, "aux_weights.z_loss: found -1; expected a number ≥ 0"),
        ({"resume_options": "both"}, "resume_options: found the text 'both'; expected one of checkpoint, file"),
    ],
    "logger": [
        ({"progress": "on"}, "progress: found .*; expected .*auto.* true or false"),
        ({"progress": 2}, "progress: found .*; expected .*auto.* true or false"),
        ({"keep_checkpoints": 0}, "keep_checkpoints: found .*; expected an integer ≥ 1"),
    ],
    "val": [
        ({"tile": -1}, "tile: found -1; expected an integer ≥ 0"),
        ({"tile": 64}, r"tile_overlap: found 64 \(the default\); expected at most half of tile \(64\)"),
        ({"tile": 64, "tile_overlap": 33}, "tile_overlap: found 33; expected at most half of tile"),
        ({"tile_overlap": 600}, r"tile_overlap: found 600; expected at most half of tile \(1024\)"),
        ({"tile": "auto", "tile_overlap": 600}, "tile_overlap: found 600; expected at most half of tile"),
        ({"best": {}}, "best.metric: is missing; expected a text"),
        ({"best": {"metric": "psnr", "hihger": True}}, r"best.hihger: unknown key. Did you mean 'higher'\?"),
        ({"best": {"metric": "psnr", "higher": "no"}}, "best.higher: found the text .no.; expected true or false"),
    ],
}


@pytest.mark.parametrize(("name", "section", "message"), [(n, *case) for n in WRONG for case in WRONG[n]])
def test_bad_options_are_named(name, section, message):
    with pytest.raises(OptionError, match=rf"{name}\..*{message}"):
        Settings.parse({name: section})


def test_tiles_are_used_for_large_images_only():
    automatic, chosen, never = (Settings.parse({"val": s}).val for s in ({}, {"tile": 256}, {"tile": 0}))
    assert (automatic.tile_for(1080, 1920), automatic.tile_for(2160, 3840)) == (0, 1024)
    assert (chosen.tile_for(256, 256), chosen.tile_for(100, 257)) == (0, 256)
    assert never.tile_for(9999, 9999) == 0
    assert Settings.parse({"val": {"tile": "auto"}}).val.tile is None


def test_option_names_are_told_to_the_checker_and_everything_wrong_at_once():
    names = "amp accumulate grad_clip compile channels_last aux_weights max_nonfinite progressive resume_options"
    assert set(names.split()) == set(UniRainModel.TRAIN_OPTIONS)
    assert set(UniRainModel.VAL_OPTIONS) == {"tile", "tile_overlap", "best", "protocol"}
    wrong = {"train": {"amp": "bf61", "accumulate": 0}, "val": {"tile": 64}, "logger": {"routing_freq": 0}}
    with pytest.raises(OptionError, match=r"(?s)n\.amp: .*accumulate: .*val\.tile_overlap: .*logger\.routing_f"):
        Settings.parse(wrong)


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("train", {"accumulate": 5}, "train: accumulate: 5 micro-batches cannot be cut from a batch of 4"),
        (
            "train",
            {"progressive": [{"iters": 1, "gt_size": 8, "batch_size": 5}]},
            "train: progressive: batch_size: found 5; expected at most 4",
        ),
        ("val", {"best": "snr"}, r"val: best: metric: 'snr' is not among .*Did you mean 'psnr'\?"),
        ("logger", {"progress": "yes"}, "logger.progress: found the text .yes.; expected .auto."),
        ("logger", {"routing_freq": 0}, "logger.routing_freq: found 0; expected an integer ≥ 1"),
    ],
)
def test_options_are_checked_together_without_building(tmp_path, section, change, message):
    opt = options(tmp_path)
    UniRainModel.check_options(opt, is_train=True)
    opt[section].update(change)
    with pytest.raises(OptionError, match=message):
        UniRainModel.check_options(opt, is_train=True)
    opt = options(tmp_path, pixel_opt={"type": "L1Loss", "source": "val"})
    del opt["val"]
    with pytest.raises(OptionError, match="source: val needs a validation set"):
        UniRainModel.check_options(opt, is_train=True)
