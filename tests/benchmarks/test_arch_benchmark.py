"""``benchmark arch``: which rows are measured together, in processes of their own, and what ratios are taken to."""

import os
import sys

import pytest
import torch

from unirain_plugin.errors import OptionError, UniRainError
from unirain_plugin.study.benchmarks import arch
from unirain_plugin.study.benchmarks.reference_net import TextbookNet


def rows_of(*argv):
    return arch.rows_of(arch.parser().parse_args(argv))


def test_the_yardstick_has_restormers_size():
    assert sum(p.numel() for p in TextbookNet().parameters()) == pytest.approx(26.1e6, rel=0.01)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_cuda_without_a_gpu_is_explained():
    with pytest.raises(OptionError, match="finds no CUDA device"):
        arch.main(["--device", "cuda"])


def test_the_baseline_is_the_first_row_and_only_unirain_recomputes():
    tiny = [("UniRain-Tiny", label) for label in ("fp32", "bf16", "checkpointing")]
    assert rows_of("--networks", "RCAN", "UniRain-Tiny") == [("textbook", "fp32"), ("RCAN", "fp32"), *tiny]
    given = rows_of("--networks", "RCAN", "--variants", "bf16", "checkpointing")
    assert given == [("textbook", "fp32"), ("RCAN", "bf16")]


@pytest.mark.parametrize("usable", [True, False])
def test_the_baseline_is_measured_in_bf16_where_the_processor_knows_it(usable, monkeypatch, capsys):
    monkeypatch.setattr(arch, "has_bfloat16", lambda: usable)
    labels = rows_of("--networks", "textbook", "UniRain-Tiny")
    assert (("textbook", "bf16") in labels) == usable
    assert ("UniRain-Tiny", "bf16") in labels
    assert ("textbook in bf16 is left out" in capsys.readouterr().err) != usable


def test_turns_are_taken_and_the_first_is_not_counted():
    order = []
    seconds = arch.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, "cpu")
    assert order == ["a", "b"] * 3
    assert set(seconds) == {"a", "b"}


def test_groups_have_the_baseline_first_and_every_row_once(monkeypatch):
    monkeypatch.setattr(arch, "has_bfloat16", lambda: True)
    rows = rows_of()
    presets, ablated, others = arch.groups_of(rows)
    assert presets[0] == ablated[0] == others[0] == rows[0]
    assert sorted(map(str, [rows[0], *presets[1:], *ablated[1:], *others[1:]])) == sorted(map(str, rows))
    assert {name for name, _ in others[1:]} == {"SwinIR", "RCAN"}
    assert {name for name, _ in presets[1:]} == {"textbook", "UniRain", "UniRain-S", "UniRain-Tiny"}
    for argv in (["--networks", "RCAN"], ["--networks", "textbook", "--variants", "fp32"]):
        assert arch.groups_of(rows_of(*argv)) == [rows_of(*argv)]


def test_the_table_has_dashes_for_what_was_not_measured():
    args = arch.parser().parse_args([])
    row = {"network": "textbook", "variant": "fp32", "parameters": 1, "multiply_adds": 1}
    row |= dict.fromkeys(("forward", "warm", "step", "memory"), 1.0)
    row |= dict.fromkeys(("forward_ratio", "warm_ratio", "step_ratio", "memory_ratio"), 1.0)
    text = arch.table([row, {**row, "network": "RCAN", "warm_ratio": None}], args)
    assert "(forward 1.00 s, warm 1.00 s, step 1.00 s); median of 3 turns" in text
    assert "| RCAN | fp32 | 0.00 | 0.0 | 1.00 | – | 1.00 | 1.00 |" in text
    assert "(forward 1.00 s, step 1.00 s); median of 3 turns" in arch.table([{**row, "warm": None}], args)


def test_ratios_are_to_the_baseline_of_the_group(monkeypatch):
    seconds = iter((2.0, 3.0, 4.0))  # of the baseline in the three groups

    def apart(function, *args):
        if function is arch.seconds_of:
            _, rows, *_ = args
            return {row: 6.0 for row in rows} | {rows[0]: next(seconds)}
        return {row: 6.0 for row in args[0]}, {}

    monkeypatch.setattr(arch, "apart", apart)
    names = ["UniRain-Tiny", "UniRain_dense", "RCAN"]
    args = arch.parser().parse_args(["--networks", *names, "--variants", "fp32", "--size", "8", "--no-memory"])
    rows = {row["network"]: row for row in arch.measure(args)}
    assert list(rows) == ["textbook", *names]
    assert [row["forward_ratio"] for row in rows.values()] == [1, 3, 2, 1.5]
    assert [row["forward_base"] for row in rows.values()] == [2, 2, 3, 4]
    assert {row["step_ratio"] for row in rows.values()} == {1}
    assert {row["warm"] for row in rows.values()} == {row["memory"] for row in rows.values()} == {None}


def test_a_process_apart_has_as_many_threads_and_raises_here():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert arch.apart(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(threads)
    rows = [("no such network", "fp32")]
    with pytest.raises(KeyError, match="no such network"):
        arch.apart(arch.seconds_of, arch.forward_pass, rows, 16, 1, "cpu")


def test_a_killed_process_is_explained():
    with pytest.raises(UniRainError, match="was killed, perhaps for lack of memory: name fewer --networks"):
        arch.apart(os.abort)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident sets are read from /proc")
def test_recomputation_needs_less_memory():
    memory = [arch.step_memory("UniRain-Tiny", label, 128, "cpu") for label in ("fp32", "checkpointing")]
    assert 0 < memory[1] < 0.8 * memory[0]
