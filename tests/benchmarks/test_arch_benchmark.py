import json
import os
import sys

import pytest
import torch

from unirain_plugin.errors import OptionError, UniRainError
from unirain_plugin.study.benchmarks import arch, cli
from unirain_plugin.study.benchmarks import arch as measuring
from unirain_plugin.study.benchmarks.reference_net import TextbookNet


def test_the_yardstick_has_restormers_size():
    assert sum(p.numel() for p in TextbookNet().parameters()) == pytest.approx(26.1e6, rel=0.01)


def test_every_benchmark_has_a_main():
    import importlib

    for module, _ in cli.BENCHMARKS.values():
        assert callable(importlib.import_module(module).main)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["arhc"], "unknown name 'arhc'. Did you mean 'arch'"),
        (["arch", "--networks", "UniRian"], "--networks: unknown 'UniRian'. Did you mean 'UniRain'"),
        (["arch", "--variants", "fp16"], "--variants: unknown 'fp16'"),
        (["arch", "--size", "100"], "--size: got 100; allowed: a multiple of 8"),
        (["arch", "--rounds", "0"], "--rounds: got 0; allowed: at least 1"),
    ],
)
def test_wrong_arguments_are_explained(argv, message):
    with pytest.raises(OptionError, match=message):
        cli.main(argv)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_cuda_without_a_gpu_is_explained():
    with pytest.raises(OptionError, match="finds no CUDA device"):
        cli.main(["arch", "--device", "cuda"])


def test_the_baseline_is_the_first_row_and_only_unirain_recomputes():
    args = arch.parser().parse_args(["--networks", "RCAN", "UniRain-Tiny"])
    rows = [(name, variant.label) for name, variant in arch.rows_of(args)]
    assert rows[0] == ("textbook", "fp32")
    assert rows[1:] == [
        ("RCAN", "fp32"),
        *(("UniRain-Tiny", v) for v in ("fp32", "bf16", "checkpointing")),
    ]


@pytest.fixture()
def with_bfloat16(monkeypatch):
    monkeypatch.setattr(arch, "has_bfloat16", lambda: True)


@pytest.mark.parametrize("usable", [True, False])
def test_the_baseline_is_measured_in_bf16_where_the_processor_knows_it(usable, monkeypatch, capsys):
    monkeypatch.setattr(arch, "has_bfloat16", lambda: usable)
    args = arch.parser().parse_args(["--networks", "textbook", "UniRain-Tiny"])
    labels = {(name, variant.label) for name, variant in arch.rows_of(args)}
    assert (("textbook", "bf16") in labels) == usable
    assert ("UniRain-Tiny", "bf16") in labels
    assert ("textbook in bf16 is left out" in capsys.readouterr().err) != usable


def test_given_variants_apply_to_every_network():
    args = arch.parser().parse_args(["--networks", "RCAN", "--variants", "bf16", "checkpointing"])
    assert [(name, variant.label) for name, variant in arch.rows_of(args)] == [("textbook", "fp32"), ("RCAN", "bf16")]


@pytest.mark.usefixtures("with_bfloat16")
def test_a_measurement_prints_every_row(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(arch, "BASELINE", "textbook-tiny")
    argv = ["arch", "--networks", "textbook-tiny", "UniRain-Tiny", "--size", "16", "--train-size", "16"]
    argv += ["--rounds", "1", "--threads", "1", "--no-memory", "--json", str(tmp_path / "b.json")]
    code = cli.main(argv)
    assert code == 0
    printed, told = capsys.readouterr()
    assert "benchmark arch: training steps at 16², 5 rows (textbook-tiny, UniRain-Tiny) …" in told
    assert "| textbook-tiny | fp32 | 0." in printed
    assert "| UniRain-Tiny | bf16 | 0.73 |" in printed
    assert printed.count("| window |") == 3
    rows = json.loads((tmp_path / "b.json").read_text())["networks"]
    assert rows[0]["forward_ratio"] == rows[0]["step_ratio"] == 1
    assert all(row["warm"] is None for row in rows if row["network"] == "UniRain-Tiny")
    checkpointing = next(row for row in rows if row["variant"] == "checkpointing")
    assert checkpointing["forward"] is None
    assert checkpointing["step"] > 0


def test_turns_are_taken_and_the_first_is_not_counted():
    order = []
    seconds = measuring.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, "cpu")
    assert order == ["a", "b"] * 3
    assert set(seconds) == {"a", "b"}


@pytest.mark.usefixtures("with_bfloat16")
def test_groups_have_the_baseline_first_and_every_row_once():
    rows = arch.rows_of(arch.parser().parse_args([]))
    presets, ablated, others = arch.groups_of(rows)
    assert presets[0] == ablated[0] == others[0] == rows[0]
    assert sorted(map(str, [rows[0], *presets[1:], *ablated[1:], *others[1:]])) == sorted(map(str, rows))
    assert {name for name, _ in others[1:]} == {"SwinIR", "RCAN"}
    assert {name for name, _ in presets[1:]} == {"textbook", "UniRain", "UniRain-S", "UniRain-Tiny"}


def test_a_group_without_networks_is_left_out():
    parse = arch.parser().parse_args
    rows = arch.rows_of(parse(["--networks", "RCAN"]))
    assert arch.groups_of(rows) == [rows]
    rows = arch.rows_of(parse(["--networks", "textbook", "--variants", "fp32"]))
    assert len(rows) == 1
    assert arch.groups_of(rows) == [rows]


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

    def apart(function, rows, *args):
        times = {row: 6.0 for row in rows}
        if function is measuring.forward_seconds:
            return times | {rows[0]: next(seconds)}
        return times, {}

    monkeypatch.setattr(measuring, "apart", apart)
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
        for number in (1, 3):
            torch.set_num_threads(number)
            assert measuring.apart(torch.get_num_threads) == number
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(KeyError, match="no such network"):
        measuring.apart(measuring.forward_seconds, [("no such network", measuring.VARIANTS["fp32"])], 16, 1, "cpu")


def test_a_killed_process_is_explained():
    with pytest.raises(UniRainError, match="was killed, perhaps for lack of memory: name fewer --networks"):
        measuring.apart(os.abort)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="resident sets are read from /proc")
def test_recomputation_needs_less_memory():
    memory = {
        label: measuring.step_memory("UniRain-Tiny", measuring.VARIANTS[label], 128, "cpu")
        for label in ("fp32", "checkpointing")
    }
    assert 0 < memory["checkpointing"] < 0.8 * memory["fp32"]
