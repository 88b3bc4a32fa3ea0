"""``benchmark arch``: which rows are measured together, in processes of their own, and what ratios are taken to."""

import os
import sys

import pytest
import torch

from unirain_plugin.errors import UniRainError
from unirain_plugin.metrics.complexity import Complexity
from unirain_plugin.study.benchmarks import arch
from unirain_plugin.study.benchmarks.reference_net import TextbookNet


def rows_of(*argv):
    return arch.rows_of(arch.parser().parse_args(argv))


def test_the_yardstick_has_restormers_size():
    assert sum(p.numel() for p in TextbookNet().parameters()) == pytest.approx(26.1e6, rel=0.01)


@pytest.mark.parametrize("usable", [True, False])
def test_the_baseline_is_measured_in_bf16_where_the_processor_knows_it(usable, monkeypatch, capsys):
    monkeypatch.setattr(arch, "has_bfloat16", lambda: usable)
    labels = rows_of("--networks", "textbook", "UniRain-Tiny")
    assert (("textbook", "bf16") in labels) == usable
    assert ("UniRain-Tiny", "bf16") in labels
    assert ("textbook in bf16 is left out" in capsys.readouterr().err) != usable


def test_ratios_are_to_the_baseline_of_the_group(monkeypatch):
    seconds = iter((2.0, 3.0, 4.0))  # of the baseline in the three groups

    def apart(function, *args):
        if function is arch.seconds_of:
            _, rows, *_ = args
            return {row: 6.0 for row in rows} | {rows[0]: next(seconds)}
        return {row: 6.0 for row in args[0]}, {}

    monkeypatch.setattr(arch, "apart", apart)
    monkeypatch.setattr(arch, "BASELINE", "textbook-tiny")
    monkeypatch.setattr(arch, "complexity", lambda net, size: Complexity(1, 1))
    names = ["UniRain-Tiny", "UniRain_dense", "RCAN"]
    args = arch.parser().parse_args(["--networks", *names, "--variants", "fp32", "--size", "8", "--no-memory"])
    assert args.threads == 2
    rows = {row["network"]: row for row in arch.measure(args)}
    assert list(rows) == ["textbook-tiny", *names]
    assert [row["forward_ratio"] for row in rows.values()] == [1, 3, 2, 1.5]
    assert [row["forward_base"] for row in rows.values()] == [2, 2, 3, 4]
    assert {row["step_ratio"] for row in rows.values()} == {1}
    assert {row["warm"] for row in rows.values()} == {row["memory"] for row in rows.values()} == {None}


def test_a_process_apart_has_as_many_threads_raises_here_and_is_explained_if_killed(forked_pools):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert arch.apart(torch.get_num_threads) == 3
    finally:
        torch.set_num_threads(threads)
    rows = [("no such network", "fp32")]
    with pytest.raises(KeyError, match="no such network"):
        arch.apart(arch.seconds_of, arch.forward_pass, rows, 16, 1, "cpu")
    with pytest.raises(UniRainError, match="was killed, perhaps for lack of memory: name fewer or a smaller --size"):
        arch.apart(os.abort)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident sets are read from /proc")
def test_recomputation_needs_less_memory(forked_pools):
    memory = [arch.step_memory("UniRain-Tiny", label, 128, "cpu") for label in ("fp32", "checkpointing")]
    assert 0 < memory[1] < 0.8 * memory[0]
