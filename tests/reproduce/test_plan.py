"""From questions to runs."""

from dataclasses import replace

import pytest

from unirain_plugin.study.data import DataFolder
from unirain_plugin.study.options import (
    GridRun,
    Variant,
    base_training,
    load_options,
    merged,
    plan_runs,
    run_options,
    variants_of,
)
from unirain_plugin.support.resources import option_file


@pytest.fixture(scope="module")
def cpu():
    return load_options(option_file("reproduce/cpu.yml"))


def test_shared_runs_are_made_once_and_every_seed_of_a_question_has_its_turn_before_the_next(cpu):
    runs = plan_runs(cpu)
    assert len(runs) == len(set(runs)) == 3 * (5 + 3 + 4 + 4)
    assert len({run.name for run in runs}) == len(runs)
    baseline = Variant("soft-hard", "paper", "distilled", "UniRain")
    assert sum(run.variant == baseline for run in runs) == 3
    assert all(next(iter(variants_of(cpu, question).values())) == baseline for question in cpu.questions)
    assert [run.seed for run in plan_runs(cpu)[:15]] == [1] * 5 + [2] * 5 + [3] * 5


def test_a_run_differs_from_the_baseline_in_one_thing(cpu, tmp_path):
    training, data = base_training(cpu), DataFolder(tmp_path)

    def options(**changes):
        variant = Variant(
            **{"experts": "soft-hard", "loss": "paper", "data": "distilled", "networks": "UniRain"} | changes
        )
        opt = run_options(cpu, training, GridRun(variant, 2), data)
        opt.pop("name")
        return opt

    base = options()
    assert base["manual_seed"] == base["datasets"]["train"]["seed"] == 2
    assert base["network_g"]["encoder_moe"] == "soft" and base["network_g"]["decoder_moe"] == "hard"
    assert base["train"]["scheduler"]["periods"] == [base["train"]["total_iter"]]
    assert "dataroot" not in base["datasets"]["train"]
    dense = options(experts="dense")
    assert {dense["network_g"][f"{part}_moe"] for part in ("encoder", "latent", "decoder")} == {"none"}
    assert {**dense, "network_g": base["network_g"]} == base
    equal = options(loss="equal")
    assert equal["train"]["pixel_opt"]["mode"] == "equal"
    equal["train"]["pixel_opt"]["mode"] = "paper"
    assert equal == base
    random = options(data="random")
    assert random["datasets"]["train"]["manifest"] == str(tmp_path / "subsets" / "random_2.jsonl")
    random["datasets"]["train"]["manifest"] = base["datasets"]["train"]["manifest"]
    assert random == base
    other = options(networks="EDSR")
    assert other["network_g"] == cpu.networks["EDSR"]
    assert {**other, "network_g": base["network_g"]} == base


def test_runs_follow_the_types_that_the_file_names(cpu, tmp_path):
    assert "rain_types" not in cpu.fixed({})["data"]  # as in the records of runs that were begun before the key
    types = ("nrd", "snow", "haze")
    options = replace(cpu, data=replace(cpu.data, rain_types=types))
    opt = run_options(options, base_training(options), plan_runs(options)[0], DataFolder(tmp_path))
    sections = opt["datasets"]["train"], opt["datasets"]["val"], opt["train"]["pixel_opt"]
    assert all(section["rain_types"] == list(types) for section in sections)
    assert options.fixed({})["data"]["rain_types"] == list(types)


def test_sections_are_merged_unless_their_type_changes():
    base = {"a": {"type": "X", "x": 1, "y": 2}, "b": 3}
    assert merged(base, {"a": {"y": 4}}) == {"a": {"type": "X", "x": 1, "y": 4}, "b": 3}
    assert merged(base, {"a": {"type": "Z"}, "c": [5]}) == {"a": {"type": "Z"}, "b": 3, "c": [5]}
    assert base["a"]["y"] == 2
