"""The remedies around BasicSR: each on its own, and none left behind."""

import logging
import multiprocessing
from types import SimpleNamespace

import pytest
import torch
from run_helpers import merge, stock_sections
from tiny_run import tiny_train_options

from unirain_plugin.errors import DataError, OptionError
from unirain_plugin.runs.distributed import fork_workers, model_to_device
from unirain_plugin.runs.loaders import build_training_loader, build_validation_loaders
from unirain_plugin.runs.remedies import LazyPrefetcher, archive_folder, unused_path
from unirain_plugin.runs.run import Run, without_worker_traceback
from unirain_plugin.runs.training import TrainingRun
from unirain_plugin.toolbox import replaced
from unirain_plugin.train import main


def test_what_is_replaced_is_put_back_also_after_an_error(options, tmp_path, monkeypatch):
    import basicsr.train as toolbox_train
    from basicsr.data import prefetch_dataloader
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import misc
    from basicsr.utils import options as toolbox_options

    owner = SimpleNamespace(a=1, b=2)
    with pytest.raises(KeyError), replaced((owner, "a", 10), (owner, "b", 20), (owner, "a", 11)):
        assert (owner.a, owner.b) == (11, 20)
        raise KeyError
    assert (owner.a, owner.b) == (1, 2)

    def snapshot():
        owners = (toolbox_train, toolbox_options, misc, prefetch_dataloader, BaseModel)
        return [{k: v for k, v in vars(owner).items() if not k.startswith("__")} for owner in owners]

    def build_model(opt):
        raise DataError("enough")

    before = snapshot()
    monkeypatch.setattr(toolbox_train, "build_model", build_model)
    with pytest.raises(DataError, match="enough"):  # a run that ends in the middle
        main(["-opt", str(options()), "--root", str(tmp_path)])
    monkeypatch.undo()
    assert snapshot() == before


def test_each_run_of_a_program_has_a_log_of_its_own(tmp_path):
    """The toolbox's logger is set up once a process, and names logs by the second."""
    from basicsr.utils import get_root_logger

    for number in range(3):
        run = Run.__new__(Run)
        run.notes = [f"note {number}"]
        get_logger = run.logged_notes(get_root_logger)
        get_logger(log_level=logging.INFO, log_file=str(tmp_path / "train.log")).info(f"begin {number}")
        get_root_logger().info(f"end {number}")
    for number, name in enumerate(("train.log", "train_1.log", "train_2.log")):
        lines = [line.split(": ", 1)[1] for line in (tmp_path / name).read_text().splitlines()]
        assert lines == [f"note {number}", f"begin {number}", f"end {number}"]


def test_archives_never_collide_and_unused_paths_keep_their_suffix(tmp_path):
    folder = tmp_path / "run"
    assert archive_folder(folder) is None and folder.is_dir()
    targets = []
    for number in range(3):
        (folder / str(number)).touch()
        targets.append(archive_folder(folder))
    assert [next(target.iterdir()).name for target in targets] == ["0", "1", "2"] and not list(folder.iterdir())
    log = tmp_path / "train_1.log"
    assert unused_path(log) == log
    log.touch()
    assert unused_path(log).name == "train_1_1.log"


def test_prefetcher_enters_the_loader_once_an_epoch():
    entered = []

    class Loader:
        def __iter__(self):
            entered.append(1)
            return iter([1, 2])

    prefetcher = LazyPrefetcher(Loader())
    assert prefetcher.next() is None and not entered
    for _ in range(2):
        prefetcher.reset()
        assert [prefetcher.next() for _ in range(4)] == [1, 2, None, None]
    assert len(entered) == 2


def test_message_of_a_workers_error_loses_the_traceback():
    message = (
        "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\nunirain_plugin.errors.DataError: a.png: broken\nsecond line\n'
    )
    found = without_worker_traceback(DataError(message))
    assert type(found) is DataError and str(found) == "a.png: broken\nsecond line"
    plain = OptionError("lr: wrong")
    assert without_worker_traceback(plain) is plain


def test_workers_are_forked_unless_chosen_otherwise_and_a_single_process_is_not_wrapped(monkeypatch):
    chosen = []
    monkeypatch.setattr(multiprocessing, "set_start_method", chosen.append)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: None)
    fork_workers()
    assert chosen == ["fork"]
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    fork_workers()
    assert chosen == ["fork"]
    model = SimpleNamespace(device=torch.device("cpu"), opt={"dist": False, "num_gpu": 0})
    net = torch.nn.Linear(1, 1)
    assert model_to_device(model, net) is net


def loader_options(rain, **train):
    opt = tiny_train_options(rain, name="x", total_iter=3)
    merge(opt, stock_sections(rain))
    opt |= {"dist": False, "world_size": 1, "rank": 0}
    for phase, section in opt["datasets"].items():
        section |= {"phase": phase, "scale": 1}
    opt["datasets"]["train"] |= {"gt_size": 16, **train}
    return opt


def test_loaders_keep_workers_leave_the_random_stream_alone_and_tell_missing_or_misnamed_sections(rain):
    logger = logging.getLogger("test")
    for section, persistent in (
        ({"num_worker_per_gpu": 2}, True),
        ({"num_worker_per_gpu": 2, "persistent_workers": False}, False),
        ({"num_worker_per_gpu": 0, "persistent_workers": True}, False),
    ):
        loader, sampler = build_training_loader(loader_options(rain, **section), 3, 0, None, logger)
        assert loader.persistent_workers is persistent and loader.sampler is sampler
    opt = loader_options(rain)
    loaders = [build_training_loader(opt, 3, 0, None, logger)[0], *build_validation_loaders(opt, logger)]
    before = torch.get_rng_state()
    for loader in loaders:
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)
    del opt["datasets"]["train"]
    with pytest.raises(OptionError, match="datasets: found val; expected a section 'train'"):
        build_training_loader(opt, 3, 0, None, logger)
    opt["datasets"]["vall"] = opt["datasets"].pop("val")
    with pytest.raises(OptionError, match="datasets: vall: expected 'train', 'val' or 'val_NAME'"):
        build_validation_loaders(opt, logger)


def test_a_resumed_run_validates_first_what_was_due():
    run, seen = TrainingRun.__new__(TrainingRun), []
    run.val_loaders = ["first", "second"]
    run.model = SimpleNamespace(validation=lambda loader, iteration, *_: seen.append((loader, iteration)))
    opt = {"name": "run", "train": {"total_iter": 12}, "logger": {"print_freq": 1, "use_tb_logger": False}}
    for start in (0, 4, 6, 12):  # new, just saved but not yet validated, between two validations, ended
        run.message_logger({**opt, "val": {"val_freq": 4, "save_img": False}}, start, None)
    run.message_logger(opt, 4, None)
    assert seen == [("first", 4), ("second", 4)]
