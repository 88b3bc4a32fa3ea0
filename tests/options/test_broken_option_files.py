"""One mistake an option file: one clear message with file, line, key path, what was found and what was meant."""

import pytest
import yaml
from option_texts import STOCK, TEST, UNIRAIN, line_of

from unirain_plugin.errors import OptionError
from unirain_plugin.options import check_options, load_options
from unirain_plugin.options.check_run import schedule_faults
from unirain_plugin.options.yaml_loader import read_option_file

# what is replaced, by what, the key path that the message names, and what it says besides
UNIRAIN_MISTAKES = [
    ("model_type: UniRainModel", "model_tpye: UniRainModel", "model_tpye", "Did you mean 'model_type'?"),
    ("name: rain\n", "name:\n", "name", "found nothing (null); expected a text"),
    ("name: rain\n", "name: a/b\n", "name", "without slashes"),
    ("name: rain\n", 'name: "a\\nb"\n', "name", "without slashes and control characters"),
    ("name: rain\n", f"name: {'r' * 201}\n", "name", "of 200 bytes or less"),
    ("name: held out\n", "name: ../out\n", "datasets.val.name", "expected a folder below the results"),
    ("name: held out\n", "name: /tmp/out\n", "datasets.val.name", "expected a folder below the results"),
    ("UniRainModel", "UniRainModle", "model_type", "no model is named 'UniRainModle'. Did you mean 'UniRainModel'?"),
    ("type: UniRain\n", "type: UniRian\n", "network_g.type", "no network is named 'UniRian'. Did you mean 'UniRain'?"),
    ("MultiObjectiveReweightedLoss", "MultiObjectiveReweigthedLoss", "train.pixel_opt.type", "Reweightedloss'?"),
    ("type: L1Loss", "type: L1Los", "train.pixel_opt.base.type", "Did you mean 'L1Loss'?"),
    ("AdamW", "AdmaW", "train.optim_g.type", "no optimiser 'AdmaW'. Did you mean 'AdamW'?"),
    ("RestartLR", "LR", "train.scheduler.type", "Did you mean 'CosineAnnealingRestartLR'?"),
    ("calculate_psnr", "calculate_psrn", "val.metrics.psnr.type", "Did you mean 'calculate_psnr'?"),
    ("!!float 2e-4", "2e-4", "train.optim_g.lr", "'2e-4' as text, not as a number; write 2.0e-4"),
    ("1.0e-6", "1.0e6", "train.scheduler.eta_min", "'1.0e6' as text, not as a number; write 1.0e+6"),
    ("!!float 2e-4", "'2e-4'", "train.optim_g.lr", "the text '2e-4'; expected a number > 0, e.g. 2.0e-4. Write 2.0e-4"),
    ("!!float 2e-4", "-0.1", "train.optim_g.lr", "found -0.1; expected a number > 0"),
    ("betas: [0.9, 0.99]", "betas: [0.9, 1.99]", "train.optim_g.betas", "a list of 2 numbers ≥ 0 and < 1"),
    ("betas: [0.9, 0.99]", "betas: []", "train.optim_g.betas", "found the list []; expected a list of 2 numbers"),
    ("betas: [0.9, 0.99]", "foreach: true\n    fused: true", "train.optim_g", "AdamW refuses its options"),
    ("betas: [0.9, 0.99]", "bettas: [0.9, 0.99]", "train.optim_g.bettas", "Did you mean 'betas'?"),
    ("batch_size_per_gpu", "btach_size_per_gpu", "datasets.train.btach_size_per_gpu", "'batch_size_per_gpu'?"),
    ("gpu: 2", "gpu: two", "datasets.train.batch_size_per_gpu", "expected an integer ≥ 1"),
    ("gpu: 2", "gpu: 2.0", "datasets.train.batch_size_per_gpu", "found 2.0; expected an integer ≥ 1"),
    ("gt_size: 32", "gt_size: 0", "datasets.train.gt_size", "found 0; expected an integer ≥ 1"),
    ("use_rot: true", "use_rot: sometimes", "datasets.train.use_rot", "expected true or false"),
    ("use_rot: true", "use_rotation: true", "datasets.train.use_rotation", "no such option. Known: batch_size_per_gpu"),
    ("grad_clip: 1.0", "grad_clp: 1.0", "train.grad_clp", "Did you mean 'grad_clip'?"),
    ("grad_clip: 1.0", "wibble: 1.0", "train.wibble", "UniRainModel has no such option. Known: accumulate, amp"),
    ("grad_clip: 1.0", "amp: fp17", "train.amp", "'fp17'; expected one of off, bf16, fp16. Did you mean 'fp16'?"),
    ("grad_clip: 1.0", "compile: max-autotun", "train.compile", "Did you mean 'max-autotune'?"),
    ("resume_state: ~", "param_key_g: parms_ema", "path.param_key_g", "Did you mean 'params_ema'?"),
    ("mode: paper", "windw: 4", "train.pixel_opt.windw", "Did you mean 'window'?"),
    ("grad_clip: 1.0", "print_freq: 10", "train.print_freq", "wrong place; it belongs under 'logger:'"),
    ("  grad_clip: 1.0", "  ema_decay: 0.5", "train.ema_decay", "given twice, first in line 33; keep one"),
    ("ema_decay: 0.9", "ema_decay: 1.5", "train.ema_decay", "found 1.5; expected a number ≥ 0 and < 1"),
    ("heads: [1, 2]", "heads: [1, 3]", "network_g.heads", "got 3 for level 2 with 16 channels"),
    ("mode: paper", "mode: papre", "train.pixel_opt.mode", "Did you mean 'paper'?"),
    ("periods: [100]", "periods: [50]", "train.scheduler.periods", "add up to 50, less than total_iter (100)"),
    ("weights: [1]", "weights: [1, 1]", "train.scheduler.restart_weights", "2 weight(s) for 1 entries of 'periods'"),
    ("weights: [1]", "weights: []", "train.scheduler.restart_weights", "0 weight(s) for 1 entries of 'periods'"),
    ("total_iter: 100", "total_iter: 0", "train.total_iter", "found 0; expected an integer ≥ 1"),
    ("num_gpu: 0", "num_gpu: all", "num_gpu", "expected an integer ≥ 0 or 'auto'"),
    ("  val:\n    name", "  vall:\n    name", "datasets.vall", "unknown phase; expected 'train', 'val'"),
    ("  train:\n    name", "  trian:\n    name", "datasets.trian", "unknown phase; expected 'train', 'val'"),
    ("resume_state: ~", "resume_state: 7.state", "path.resume_state", "there is no file '7.state'"),
    ("network_g: ~", "network_g: None", "path.pretrain_network_g", "the text 'None'; for nothing write ~"),
    ("pretrain_network_g: ~", "pretrain_netwrok_g: ~", "path.pretrain_netwrok_g", "'pretrain_network_g'?"),
    ("\n      crop_border: 0", "", "val.metrics.psnr.crop_border", "is missing"),
    ("save_img: false", "save_image: false", "val.save_image", "Did you mean 'save_img'?"),
    ("use_tb_logger: false", "use_tb_logger: maybe", "logger.use_tb_logger", "expected true or false"),
    ("logger:\n", "loger:\n", "loger", "Did you mean 'logger'?"),
    ("num_gpu: 0", "num_gpu: 0\nyes: 1", "yes", "this key is not text in YAML"),
    ("name: rain\n", "name: !!python/name:os.system\n", "name", "tag '!!python/name:os.system' is not allowed"),
    ("scale: 1", "scale: !!binary aGk=", "scale", "tag '!!binary' is not allowed"),
]


def message_for(text: str, folder, is_train: bool = True, **more) -> str:
    file = folder / "broken.yml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(OptionError) as caught:
        load_options(file, is_train=is_train, **more)
    return str(caught.value)


@pytest.fixture()
def unirain(rainrag_root) -> str:
    return UNIRAIN.replace("DATA", str(rainrag_root))


@pytest.mark.parametrize(
    ("old", "new", "key", "says"), UNIRAIN_MISTAKES, ids=[new.strip() for _, new, *_ in UNIRAIN_MISTAKES]
)
def test_one_mistake_one_message(old, new, key, says, unirain, tmp_path):
    assert old in unirain
    message = message_for(unirain.replace(old, new, 1), tmp_path)
    assert message.startswith(str(tmp_path / "broken.yml"))
    assert f": {key}: " in message
    assert says.lower() in message.lower()
    assert "\n" not in message, "one mistake must give one line"


def test_line_numbers_and_that_the_last_rate_is_asked_for_one_step_before_the_end(unirain, tmp_path):
    for old, new in (
        ("mode: paper", "mode: papre"),
        ("num_gpu: 0", "num_gpu: all"),
        ("heads: [1, 2]", "heads: [1, 3]"),
    ):
        text = unirain.replace(old, new)
        assert message_for(text, tmp_path).startswith(f"{tmp_path / 'broken.yml'}:{line_of(text, new)}: ")
    faults = [list(schedule_faults({"periods": [n], "restart_weights": [1]}, 100)) for n in (99, 98)]
    assert [len(found) for found in faults] == [0, 1]


def test_missing_cuda_is_said_and_missing_folders_name_the_nearest(unirain, tmp_path, monkeypatch, rainrag_root):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    message = message_for(unirain.replace("num_gpu: 0", "num_gpu: 2"), tmp_path)
    assert "num_gpu: found 2, but PyTorch sees no CUDA device here; write 'auto'" in message
    text = unirain.replace(f"dataroot: {rainrag_root}\n    rain", f"dataroot: {tmp_path / 'rainrga'}\n    rain")
    message = message_for(text, tmp_path)
    assert f"datasets.train.dataroot: there is no folder '{tmp_path / 'rainrga'}'. Did you mean 'rainrag'?" in message


def test_loader_settings_that_the_toolbox_refuses(unirain, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    workers = "num_worker_per_gpu: 0"
    for cuda, more, told in (
        (False, "persistent_workers: true", "persistent_workers: needs workers, but num_worker_per_gpu is 0"),
        (False, "prefetch_mode: cuda", "prefetch_mode: 'cuda' needs a CUDA device"),
        (True, "prefetch_mode: cuda", "prefetch_mode: 'cuda' needs 'pin_memory: true'"),
    ):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        message = message_for(unirain.replace(workers, f"{workers}\n    {more}"), tmp_path)
        assert f"datasets.train.{told}" in message


def test_all_mistakes_are_told_at_once(unirain, tmp_path):
    text = unirain.replace("num_gpu: 0", "num_gpu: -1").replace("gt_size", "gtsize").replace("mode: paper", "mode: x")
    first, *lines = message_for(text, tmp_path).splitlines()
    assert first == f"3 mistakes in {tmp_path / 'broken.yml'}:"
    keys = [line.strip().split(": ")[1] for line in lines]
    assert keys == ["num_gpu", "datasets.train.gtsize", "train.pixel_opt.mode"]


KEYS_OF_THE_TOOLBOX = """
    name model_type num_gpu scale datasets datasets.train network_g network_g.type network_g.num_in_ch
    network_g.num_out_ch path train logger logger.print_freq logger.save_checkpoint_freq logger.use_tb_logger
    datasets.train.name datasets.train.type datasets.train.dataroot_gt datasets.train.dataroot_lq
    datasets.train.io_backend datasets.train.io_backend.type datasets.train.gt_size datasets.train.use_hflip
    datasets.train.use_rot datasets.train.num_worker_per_gpu datasets.train.batch_size_per_gpu
    datasets.val_1.name datasets.val_1.type datasets.val_1.dataroot_gt datasets.val_1.dataroot_lq
    datasets.val_1.io_backend datasets.val_1.io_backend.type
    train.total_iter train.optim_g train.optim_g.type train.optim_g.lr train.scheduler train.scheduler.type
    train.scheduler.milestones train.pixel_opt train.pixel_opt.type
    val.val_freq val.save_img val.metrics.psnr.type val.metrics.psnr.crop_border
"""
"""The keys without which BasicSR 1.4.2 stops at that file, found by leaving out one after the other and running it."""


@pytest.mark.parametrize("key", KEYS_OF_THE_TOOLBOX.split())
def test_every_key_that_the_toolbox_needs(key, tmp_path):
    opt = yaml.safe_load(STOCK)
    *parents, last = key.split(".")
    section = opt
    for parent in parents:
        section = section[parent]
    del section[last]
    with pytest.raises(OptionError, match=rf"x\.yml: {key.replace('.', '[.]')}: (is missing; expected |no loss)"):
        check_options(opt, "x.yml", is_train=True, check_paths=False)


TEST_MISTAKES = [
    ("save_img: true", "save_imgs: true", "val.save_imgs", "Did you mean 'save_img'?"),
    ("  suffix: ~\n", "", "val.suffix", "is missing"),
    ("test_1:", "tset_1:", "datasets.tset_1", "unknown phase; expected 'test_1'"),
    ("test_1:", "train:", "datasets.train", "is a training set"),
    ("[psnr, ssim]", "[psnr, sim]", "val.metrics", "ssim"),
    ("[psnr, ssim]", "[psnr, ssim@y-matlap]", "val.metrics", "Did you mean 'y-matlab'?"),
    ("save_img: true", "save_img: true\n  protocol: y-matlap", "val.protocol", "Did you mean 'y-matlab'?"),
    ("    dataroot: DATA", "    dataroot: nowhere", "datasets.test_1.dataroot", "there is no folder 'nowhere'"),
    ("WEIGHTS", "nothing.pth", "path.pretrain_network_g", "there is no file 'nothing.pth'"),
]


@pytest.mark.parametrize(
    ("old", "new", "key", "says"), TEST_MISTAKES, ids=[new.strip() for _, new, *_ in TEST_MISTAKES]
)
def test_mistakes_in_a_file_for_testing(old, new, key, says, rainrag_root, tmp_path):
    assert old in TEST
    weights = tmp_path / "net.pth"
    weights.touch()
    text = TEST.replace(old, new).replace("DATA", str(rainrag_root)).replace("WEIGHTS", str(weights))
    message = message_for(text, tmp_path, is_train=False)
    assert f": {key}: " in message and says in message


def test_a_key_that_nobody_knows_is_a_warning_and_a_protocol_of_metrics_known_to_our_model_only(
    unirain, tmp_path, warnings_of
):
    file = tmp_path / "odd.yml"
    file.write_text(unirain + "zebra: 1\n")
    load_options(file)
    (message,) = warnings_of
    line = line_of(unirain + "zebra: 1", "zebra")
    assert message.startswith(f"{file}:{line}: zebra: unknown key: nothing reads it")
    file.write_text(
        unirain.replace("resume_state: ~", "resume_state: ~\n  param_key: params_ema\n  strict_load: false")
    )
    load_options(file)
    for told, key in zip(warnings_of[-2:], ("param_key", "strict_load"), strict=True):
        assert told.endswith(f"path.{key}: nothing reads it, so it has no effect. Did you mean '{key}_g'?")
    file.write_text(unirain.replace("crop_border: 0", "crop_border: 0\n      protocol: y-matlab"))
    opt = read_option_file(file).opt
    assert not any("protocol" in text for text in check_options(opt, file))
    opt["model_type"], opt["train"]["optim_g"]["type"] = "SRModel", "Adam"
    told = "val.metrics.psnr.protocol: unknown key: nothing reads it"
    assert any(told in text for text in check_options(opt, file))
