"""Options of the model: defaults, parsing, and what the errors say."""

import pytest
from model_helpers import options

from unirain_plugin.errors import OptionError
from unirain_plugin.models.settings import AUX_WEIGHTS, BestSettings, TrainingSettings, ValidationSettings
from unirain_plugin.models.unirain_model import UniRainModel


def test_defaults_change_nothing():
    settings = TrainingSettings.from_options({"total_iter": 10, "optim_g": {}})
    assert settings == TrainingSettings()
    assert (settings.amp, settings.accumulate, settings.grad_clip, settings.compile) == ("off", 1, None, False)
    assert ValidationSettings.from_options(None) == ValidationSettings()


def test_yaml_reads_a_bare_off_as_false():
    assert TrainingSettings.from_options({"amp": False}).amp == "off"


def test_own_aux_weights_complete_the_defaults():
    weights = TrainingSettings.from_options({"aux_weights": {"z_loss": 0}}).aux_weights
    assert weights == {**AUX_WEIGHTS, "z_loss": 0.0}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"amp": "fb16"}, r"train: amp: expected one of off, bf16, fp16, found 'fb16'. Did you mean 'bf16'\?"),
        ({"amp": True}, "train: amp: expected one of"),
        ({"accumulate": 0}, "train: accumulate: expected a whole number of at least 1, found 0"),
        ({"accumulate": True}, "train: accumulate"),
        ({"accumulate": 2.0}, "train: accumulate"),
        ({"grad_clip": 0}, "train: grad_clip: expected a number > 0.0, found 0"),
        ({"grad_clip": "1e-2"}, "train: grad_clip"),
        ({"compile": 1}, "train: compile: expected true or false, found 1"),
        ({"channels_last": "yes"}, "train: channels_last"),
        ({"max_nonfinite": -1}, "train: max_nonfinite"),
        ({"progressive": 3}, r"train: progressive: expected a list of \{iters, gt_size, batch_size\}, found 3"),
        ({"progressive": [{"iters": 5}]}, "train: progressive: expected a list"),
        ({"progressive": [{"iters": 5, "gt_size": 8, "batch_size": 0}]}, "train: progressive: batch_size: expected a"),
        ({"aux_weights": 0.1}, "train: aux_weights: expected a mapping"),
        ({"aux_weights": {"load_balanse": 1}}, r"load_balanse: unknown auxiliary loss. Did you mean 'load_balance'\?"),
        ({"aux_weights": {"z_loss": -1}}, "train: aux_weights: z_loss: expected a number >= 0.0, found -1"),
    ],
)
def test_bad_training_options_are_named(section, message):
    with pytest.raises(OptionError, match=message):
        TrainingSettings.from_options(section)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"tile": -1}, "val: tile: expected a whole number of at least 0, found -1"),
        ({"tile": "big"}, "val: tile"),
        ({"tile": 64}, r"val: tile_overlap: expected at most half of tile \(64\), found 64 \(the default\)"),
        ({"tile": 64, "tile_overlap": 33}, "val: tile_overlap: expected at most half of tile"),
        ({"tile_overlap": 600}, r"val: tile_overlap: expected at most half of tile \(1024\), found 600"),
        ({"tile": "auto", "tile_overlap": 600}, "val: tile_overlap: expected at most half of tile"),
        ({"best": {}}, "val: best: expected {metric: NAME}"),
        ({"best": {"metric": "psnr", "hihger": True}}, r"val: best: unknown key 'hihger'. Did you mean 'higher'\?"),
        ({"best": {"metric": "psnr", "higher": "no"}}, "val: best: higher: expected true or false"),
    ],
)
def test_bad_validation_options_are_named(section, message):
    with pytest.raises(OptionError, match=message):
        ValidationSettings.from_options(section)


def test_best_may_be_just_a_name():
    assert ValidationSettings.from_options({"best": "psnr/worst"}).best == BestSettings("psnr/worst")


def test_tiles_are_used_for_large_images_only():
    automatic, chosen, never = (ValidationSettings.from_options(s) for s in ({}, {"tile": 256}, {"tile": 0}))
    assert (automatic.tile_for(1080, 1920), automatic.tile_for(2160, 3840)) == (0, 1024)
    assert (chosen.tile_for(256, 256), chosen.tile_for(100, 257)) == (0, 256)
    assert never.tile_for(9999, 9999) == 0
    assert ValidationSettings.from_options({"tile": "auto"}).tile is None


def test_option_names_are_told_to_the_checker():
    names = [
        "amp",
        "accumulate",
        "grad_clip",
        "compile",
        "channels_last",
        "aux_weights",
        "max_nonfinite",
        "progressive",
    ]
    assert set(names) == set(UniRainModel.TRAIN_OPTIONS)
    assert set(UniRainModel.VAL_OPTIONS) == {"tile", "tile_overlap", "best"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda o: o["train"].update(accumulate=5),
            "train: accumulate: 5 micro-batches cannot be cut from a batch of 4",
        ),
        (
            lambda o: o["train"].update(progressive=[{"iters": 1, "gt_size": 8, "batch_size": 5}]),
            "train: progressive: batch_size: found 5; expected at most 4",
        ),
        (lambda o: o["val"].update(best="snr"), r"val: best: metric: 'snr' is not among .*Did you mean 'psnr'\?"),
        (lambda o: o["logger"].update(progress="yes"), "logger: progress: expected auto, true or false"),
        (lambda o: o["logger"].update(routing_freq=0), "logger: routing_freq: expected a whole number"),
        (lambda o: (o["train"]["pixel_opt"].update(source="val"), o.pop("val")), "source: val needs a validation set"),
    ],
)
def test_options_are_checked_together_without_building(tmp_path, change, message):
    opt = options(tmp_path)
    UniRainModel.check_options(opt, is_train=True)
    change(opt)
    with pytest.raises(OptionError, match=message):
        UniRainModel.check_options(opt, is_train=True)
