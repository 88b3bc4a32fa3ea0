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


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"amp": "bf61"}, r"train.amp: found the text 'bf61'; expected one of off, bf16, fp16. Did you mean 'bf16'\?"),
        ({"amp": True}, "train.amp: found true; expected one of"),
        ({"accumulate": 0}, "train.accumulate: found 0; expected an integer ≥ 1"),
        ({"accumulate": True}, "train.accumulate: found"),
        ({"accumulate": 2.0}, "train.accumulate: found"),
        ({"grad_clip": 0}, "train.grad_clip: found 0; expected a number > 0"),
        ({"grad_clip": "1e-2"}, "train.grad_clip: found .* Write 1.0e-2"),
        ({"compile": 1}, "train.compile: found 1; expected true or false"),
        ({"channels_last": "yes"}, "train.channels_last: found"),
        ({"max_nonfinite": -1}, "train.max_nonfinite: found"),
        ({"progressive": 3}, "train.progressive: found 3; expected a list"),
        ({"progressive": [{"iters": 5, "batch_size": 1}]}, r"train.progressive\[0\].gt_size: is missing"),
        (
            {"progressive": [{"iters": 5, "gt_size": 8, "batch_size": 0}]},
            r"train.progressive\[0\].batch_size: found 0; expected an integer ≥ 1",
        ),
        ({"aux_weights": 0.1}, "train.aux_weights: found 0.1; expected a section"),
        (
            {"aux_weights": {"load_balanse": 1}},
            r"train.aux_weights.load_balanse: unknown .*. Did you mean 'load_balance'\?",
        ),
        ({"aux_weights": {"z_loss": -1}}, "train.aux_weights.z_loss: found -1; expected a number ≥ 0"),
        ({"resume_options": "both"}, "train.resume_options: found the text 'both'; expected one of checkpoint, file"),
        *(
            ({"progress": wrong}, "logger.progress: found .*; expected .*auto.* true or false")
            for wrong in ("on", 2, [])
        ),
        *(
            ({"keep_checkpoints": wrong}, "logger.keep_checkpoints: found .*; expected an integer ≥ 1")
            for wrong in (0, -1, "3", True, 1.5)
        ),
        ({"tile": -1}, "val.tile: found -1; expected an integer ≥ 0"),
        ({"tile": "big"}, "val.tile: found"),
        ({"tile": 64}, r"val.tile_overlap: found 64 \(the default\); expected at most half of tile \(64\)"),
        ({"tile": 64, "tile_overlap": 33}, "val.tile_overlap: found 33; expected at most half of tile"),
        ({"tile_overlap": 600}, r"val.tile_overlap: found 600; expected at most half of tile \(1024\)"),
        ({"tile": "auto", "tile_overlap": 600}, "val.tile_overlap: found 600; expected at most half of tile"),
        ({"best": {}}, "val.best.metric: is missing; expected a text"),
        ({"best": {"metric": "psnr", "hihger": True}}, r"val.best.hihger: unknown key. Did you mean 'higher'\?"),
        ({"best": {"metric": "psnr", "higher": "no"}}, "val.best.higher: found the text .no.; expected true or false"),
    ],
)
def test_bad_options_are_named(section, message):
    key = next(iter(section))
    name = (
        "logger"
        if key in ("progress", "keep_checkpoints")
        else "val"
        if key in ("tile", "tile_overlap", "best")
        else "train"
    )
    with pytest.raises(OptionError, match=message):
        Settings.parse({name: section})


def test_tiles_are_used_for_large_images_only():
    automatic, chosen, never = (Settings.parse({"val": s}).val for s in ({}, {"tile": 256}, {"tile": 0}))
    assert (automatic.tile_for(1080, 1920), automatic.tile_for(2160, 3840)) == (0, 1024)
    assert (chosen.tile_for(256, 256), chosen.tile_for(100, 257)) == (0, 256)
    assert never.tile_for(9999, 9999) == 0
    assert Settings.parse({"val": {"tile": "auto"}}).val.tile is None


def test_option_names_are_told_to_the_checker():
    names = "amp accumulate grad_clip compile channels_last aux_weights max_nonfinite progressive resume_options"
    assert set(names.split()) == set(UniRainModel.TRAIN_OPTIONS)
    assert set(UniRainModel.VAL_OPTIONS) == {"tile", "tile_overlap", "best", "protocol"}


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
        (lambda o: o["logger"].update(progress="yes"), "logger.progress: found the text .yes.; expected .auto."),
        (lambda o: o["logger"].update(routing_freq=0), "logger.routing_freq: found 0; expected an integer ≥ 1"),
        (lambda o: (o["train"]["pixel_opt"].update(source="val"), o.pop("val")), "source: val needs a validation set"),
    ],
)
def test_options_are_checked_together_without_building(tmp_path, change, message):
    opt = options(tmp_path)
    UniRainModel.check_options(opt, is_train=True)
    change(opt)
    with pytest.raises(OptionError, match=message):
        UniRainModel.check_options(opt, is_train=True)


def test_everything_wrong_is_told_at_once():
    wrong = {"train": {"amp": "bf61", "accumulate": 0}, "val": {"tile": 64}, "logger": {"routing_freq": 0}}
    with pytest.raises(OptionError, match=r"(?s)n\.amp: .*accumulate: .*val\.tile_overlap: .*logger\.routing_f"):
        Settings.parse(wrong)
