"""The line of text, TensorBoard's tags and the progress bar."""

import logging
import sys

import pytest
from basicsr.utils import get_root_logger
from model_helpers import REWEIGHTED, TYPES, TensorBoardStub, batch_of, model_of, planted, train

from unirain_plugin.errors import TrainingError
from unirain_plugin.models.training_log import TrainingBar, UniRainMessageLogger, tag_of, wants_bar


def test_tags():
    for tag in (
        "losses/l_pix", "losses/l_drs", "weights/w_drs", "reweighting/slope_drs", "reweighting/tbs_nrd",
        "reweighting/af", "train/grad_norm",
    ):  # fmt: skip
        assert tag_of(tag.partition("/")[2]) == tag


@pytest.fixture()
def lines():
    """The toolbox's log lines."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = get_root_logger()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_text_is_compact_and_tensorboard_complete(tmp_path, lines):
    model = model_of(tmp_path, pixel_opt=REWEIGHTED, logger={"use_tb_logger": True})
    board, logged = TensorBoardStub(), train(model, [batch_of([0, 1, 2, 3])] * 3)[-1]
    times = {"lrs": [1e-3], "time": 0.5, "data_time": 0.1}
    UniRainMessageLogger(model.opt, 1, board)({"epoch": 0, "iter": 3, **times, **logged})
    assert set(board.scalars) == {tag_of(name) for name in logged} | {"train/lr"}
    for kind in ("slope", "tbs", "tss"):
        assert board.scalars[f"reweighting/{kind}_nrd"] == [(3, logged[f"{kind}_nrd"])]
    line = lines[-1]
    assert "iter:       3" in line and "eta: " in line
    assert all(f"{name}: " in line for name in ("l_pix", "l_drs", "w_nrd", "af"))
    assert not any(f"{name}_" in line for name in ("slope", "tbs", "tss"))


def test_a_bar_is_shown_on_terminals_and_on_one_rank(monkeypatch):
    for is_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=is_terminal: shown, raising=False)
        assert wants_bar("auto", 0) is is_terminal
        assert wants_bar(True, 0) is True
        assert wants_bar(False, 0) is False
        assert wants_bar(True, 1) is False


def test_bar_tells_loss_rate_and_worst_type_and_ends_with_the_training(tmp_path, capsys):
    model = model_of(tmp_path, total_iter=4, pixel_opt=REWEIGHTED, logger={"progress": True})
    for iteration in (3, 4):  # a resumed run
        (log,) = train(model, [batch_of([0, 1, 2, 3])], start=iteration)
        model._bar.bar.refresh()
        get_root_logger().warning("a line of the log")
    shown = capsys.readouterr().err
    worst = max(TYPES, key=lambda name: log[f"l_{name}"])
    loss = log["l_pix"] + log["l_aux_load_balance"]
    for text in ("stub:", "4/4", "images/s", f"loss {loss:.4f}", f"worst {worst}"):
        assert text in shown
    assert model._bar.bar.disable  # closed at the end of the run
    assert any(line.endswith("a line of the log") for line in shown.replace("\r", "\n").splitlines())
    model = model_of(tmp_path, max_nonfinite=1, logger={"progress": True})
    train(model, [batch_of([0, 1])])
    with pytest.raises(TrainingError):
        train(model, [planted()], start=2)
    assert model._bar.bar.disable
    capsys.readouterr()


def test_bar_tells_images_not_iterations_a_second_and_closing_twice_is_harmless(monkeypatch, capsys):
    bar = TrainingBar("run", 10, 0)
    told = type(bar.bar).format_dict.fget
    monkeypatch.setattr(type(bar.bar), "format_dict", property(lambda self: {**told(self), "rate": 2.5}))
    for images in (4, 8):  # progressive stages have fewer than what follows
        bar.update(1, images, {"l_pix": 0.1, "l_aux_z_loss": 0.2, "grad_norm": 9.0}, "drs")
        assert bar.bar.postfix == f"loss 0.3000, {2.5 * images} images/s, worst drs"
    bar.close()
    capsys.readouterr()
    bar = TrainingBar("run", 2, 0)
    bar.update(2, 4, {"l_pix": 0.1}, None)
    bar.close()
    assert "2/2" in capsys.readouterr().err
