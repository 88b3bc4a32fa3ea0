"""Option files of the reproduction: what is shipped fits, what is wrong is explained, the hash follows what counts."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import write_own_network

from unirain_plugin.errors import OptionError
from unirain_plugin.options import check_options
from unirain_plugin.options.yaml_loader import read_option_file
from unirain_plugin.study.data import DataFolder
from unirain_plugin.study.options import (
    base_training,
    differences,
    digest,
    load_options,
    parse_options,
    plan_runs,
    run_options,
)
from unirain_plugin.study.results import measure_costs
from unirain_plugin.support.resources import options_root

FILES = sorted((options_root() / "reproduce").glob("*.yml"))
SMOKE = options_root() / "reproduce" / "smoke.yml"


def smoke(**changes):
    return {**deepcopy(dict(read_option_file(SMOKE).opt)), **changes}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_networks_cost_the_same_and_the_runner_takes_every_run(path):
    options = load_options(path)
    small = replace(options, data=replace(options.data, val_size=32))  # costs grow with the pixels: ratios stay
    options = replace(options, test_sets=None)  # nobody's are here
    training = base_training(options)
    costs = measure_costs(small, training)
    assert 0 <= costs.largest <= options.tolerance
    seen = set()
    for run in plan_runs(options):
        if run.variant not in seen:
            seen.add(run.variant)
            opt = run_options(options, training, run, DataFolder(Path("data")))
            if path.stem == "gpu":
                opt["num_gpu"] = 0
            check_options(opt, run.name, check_paths=False)


def test_a_network_that_costs_more_or_cannot_be_built_and_an_unknown_base_file_are_named():
    for network, message in (
        ({**smoke()["networks"]["EDSR"], "num_feat": 16}, r": .* multiply-adds \(\+\d+\.\d%\)"),
        ({"type": "MSRResNet", "upscale": 1}, " cannot be built: AttributeError"),
    ):
        options = parse_options(smoke(networks={"EDSR": network}), "here")
        with pytest.raises(OptionError, match=f"EDSR_paper_distilled{message}"):
            measure_costs(options, base_training(options))
    options = parse_options(smoke(training={"base": "train/train_UniRain-Tny_demo.yml"}), "here")
    with pytest.raises(OptionError, match=r"Did you mean 'train/train_UniRain-Tiny_demo\.yml'"):
        base_training(options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qestions": {}}, "here.qestions: unknown key. Did you mean 'questions'?"),
        ({"questions": {}}, "questions: is empty; expected some of experts, loss, data, networks"),
        ({"questions": {"los": ["paper", "equal"]}}, "questions: 'los' is unknown. Did you mean 'loss'?"),
        ({"questions": {"loss": ["paper", "equall"]}}, "questions.loss: 'equall' is unknown. Did you mean 'equal'?"),
        ({"questions": {"experts": ["soft-hard", "softhard"]}}, "Did you mean 'soft-hard'?"),
        ({"questions": {"data": ["distilled", "all"]}}, "Known: distilled, everything, random, oracle"),
        ({"questions": {"networks": ["UniRain", "RCAN"]}}, "'RCAN' is unknown. Known: UniRain, EDSR"),
        ({"questions": {"loss": ["paper"]}}, r"loss: found \['paper'\]; expected a baseline and a variant"),
        ({"questions": {"loss": ["paper", "paper"]}}, "something is listed twice"),
        ({"seeds": []}, r"seeds: found the list \[\]; expected a list, each an integer ≥ 0 .not empty"),
        ({"seeds": [1, 1]}, "expected different numbers"),
        ({"workers": 0}, "workers: found 0; expected an integer ≥ 1"),
        ({"tolerance": 0}, "tolerance: found 0"),
        ({"networks": {"EDSR": {}}}, "networks.EDSR.type: is missing"),
        ({"networks": {"UniRain": {"type": "UniRain"}}}, "networks.UniRain: is the plugin's own"),
        ({"photographs": {"train": "x"}}, "here.photographs.val: is missing"),
        ({"data": {"bad_kinds": ["swaped"]}}, "bad_kinds: 'swaped' is unknown. Did you mean 'swapped'"),
        ({"data": {"bad_kinds": ["duplicate"]}}, "'duplicate' is unknown"),
        ({"data": {"bad_kinds": []}}, "is empty; expected some of"),
        ({"data": {"bad_share": 1.0}}, "bad_share: found 1.0; expected a number > 0 and < 1"),
        ({"data": {"train_pairs": 0}}, "train_pairs: found 0; expected an integer ≥ 1"),
        ({"data": {"val_size": 16}}, "val_size: found 16; expected an integer ≥ 32 pixels"),
        ({"data": {"seed": -1}}, "seed: found -1"),
    ],
)  # fmt: skip
def test_mistakes_are_explained(changes, message):
    if "data" in changes:
        changes = {"data": {**smoke()["data"], **changes["data"]}}
    with pytest.raises(OptionError, match=message.replace("?", r"\?")):
        parse_options(smoke(**changes), "here")


def hash_of(**changes):
    options = parse_options(smoke(**changes), "here")
    return digest(options.fixed(base_training(options)))


def test_the_hash_follows_what_changes_a_run_and_differences_are_named_by_their_key_path():
    plain = hash_of()
    assert hash_of(name="other", workers=1, seeds=[5], questions={"loss": ["paper", "dwa"]}) == plain
    assert hash_of(data={**smoke()["data"], "seed": 1}) != plain
    assert hash_of(training={"base": smoke()["training"]["base"]}) != plain
    before, now = {"a": {"b": 1, "c": [2]}, "d": 3}, {"a": {"b": 1, "c": [2, 4]}, "d": 3, "e": None, "f": 5}
    assert differences(before, now) == ["a:c ([2] → [2, 4])", "f (None → 5)"]
    assert differences(before, before) == []


def test_modules_of_ones_own_are_imported_and_handed_to_every_run(tmp_path):
    module = write_own_network(tmp_path, "MyNetOfAStudy")
    text = SMOKE.read_text().replace("EDSR", "Mine").replace("name: smoke", f"name: own\nimports: [{module}]")
    start = text.index("networks:\n  Mine:")
    (tmp_path / "own.yml").write_text(
        f"{text[:start]}networks:\n  Mine: {{type: MyNetOfAStudy, width: 3}}\ntolerance: 0.999\n"
    )
    options = load_options(tmp_path / "own.yml")
    training = base_training(options)
    mine = next(run for run in plan_runs(options) if run.variant.networks == "Mine")
    assert measure_costs(options, training).networks[mine.variant.name].parameters == 3 * 3 * 9 + 3
    opt = run_options(options, training, mine, DataFolder(tmp_path))
    assert opt["imports"] == [module]
    check_options(opt, mine.name, check_paths=False)
    (tmp_path / "own.yml").write_text(text.replace(module, "not_there_at_all"))
    with pytest.raises(OptionError, match="imports: cannot import 'not_there_at_all'"):
        load_options(tmp_path / "own.yml")
    (tmp_path / "own.yml").write_text(SMOKE.read_text().replace("data:\n", "data:\n  rain_types: [drs, snov]\n"))
    with pytest.raises(OptionError, match=r"own\.yml: data\.rain_types: 'snov' is unknown; .* Did you mean 'snow'"):
        load_options(tmp_path / "own.yml")
