"""The whole pipeline: results, idempotence, workers, changed options, bad input."""

import itertools
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from distill_helpers import RESULTS, contents, make_task, run, write_png

from unirain_plugin.data.manifest import ManifestRecord, read_manifest, write_manifest
from unirain_plugin.distill.command import describe_plan
from unirain_plugin.distill.describers.captioners import VlmCaptioner
from unirain_plugin.distill.describers.default import StatisticsEmbedder
from unirain_plugin.distill.job import Context, Job
from unirain_plugin.distill.options import ReferenceOptions, parse_options
from unirain_plugin.distill.pipeline import Pipeline, list_references
from unirain_plugin.distill.records import DistillError, Vote
from unirain_plugin.distill.registry import VOTER as VOTER_REGISTRY
from unirain_plugin.distill.stages import STAGES
from unirain_plugin.distill.stages.vote import decide, is_settled, needed_votes
from unirain_plugin.distill.vlm.client import VlmClient
from unirain_plugin.distill.vlm.voter import Vlm
from unirain_plugin.distill.voters.default import Realism
from unirain_plugin.distill.workspace import load_lines, load_rows
from unirain_plugin.errors import DataError, OptionError


def manifest_of(folder):
    return list(read_manifest(Path(folder) / "manifest.jsonl"))


def test_results_tell_one_story_and_feed_the_toolbox(settings, tmp_path):
    """In a linked folder, too, from which the results lead to the files."""
    from basicsr.data.paired_image_dataset import PairedImageDataset

    (tmp_path / "far/deep").mkdir(parents=True)
    folder = tmp_path / "link"
    folder.symlink_to(tmp_path / "far/deep")
    statistics = run(settings, output=str(folder)).statistics
    records = manifest_of(folder)
    votes = [json.loads(line) for line in (folder / "votes.jsonl").read_text().splitlines()]
    assert len(records) == len(votes) == statistics["candidates"] == 16
    for record, line in zip(records, votes, strict=True):
        assert (folder / record.lq).is_file() and (folder / record.gt).is_file()
        assert record.lq.endswith(line["id"]) and record.source == "rendered" and record.size == (128, 128)
        cast = [Vote(**vote) for vote in line["votes"]]
        assert record.votes == {vote.voter: vote.verdict for vote in cast}
        assert (record.keep, record.reason) == (decide(cast, 3).keep, decide(cast, 3).reason)
        assert record.keep is (sum(v is True for v in record.votes.values()) >= 2)
        assert [found["id"] for found in record.retrieved] == cast[0].details["retrieved"]
        assert len(record.retrieved) == 2 and record.retrieved[0]["s_perc"] >= record.retrieved[1]["s_perc"]
    assert statistics["kept"] == sum(record.keep for record in records)
    assert sum(sum(c.values()) for c in statistics["by rain type"].values()) == 16
    assert {record.keep for record in records} == {True, False}
    assert json.loads((folder / "statistics.json").read_text())["kept"] == statistics["kept"]
    names = 0
    for name, entry in json.loads((folder / "meta_info/index.json").read_text())["files"].items():
        opt = {"name": name, "phase": "val", "scale": 1, "io_backend": {"type": "disk"}}
        opt |= {key: str(folder / entry[key]) for key in ("dataroot_lq", "dataroot_gt")}
        data = PairedImageDataset(opt | {"meta_info_file": str(folder / "meta_info" / name)})
        assert len(data) == entry["pairs"] and data[0]["lq"].shape == (3, 128, 128)
        names += len(data)
    assert names == statistics["kept"]


def test_early_exit_spares_the_costly_voter_and_changes_no_decision(settings, tmp_path):
    run(settings)
    run(settings, early_exit=False, output=str(tmp_path / "all"))
    some, every = manifest_of(settings["output"]), manifest_of(tmp_path / "all")
    assert [record.keep for record in some] == [record.keep for record in every]
    assert all(len(record.votes) == 3 for record in every)
    spared = [record for record in some if len(record.votes) == 2]
    assert spared and all(len(set(record.votes.values())) == 1 for record in spared)
    run(settings, voters=settings["voters"][::-1], output=str(tmp_path / "costly first"))
    assert [record.votes for record in manifest_of(tmp_path / "costly first")] == [record.votes for record in some]
    free = [{**voter, "type": "HashVoter"} for voter in settings["voters"]]
    run(settings, voters=free, output=str(tmp_path / "free"))
    assert all(len(record.votes) == 3 for record in manifest_of(tmp_path / "free"))


def test_second_run_makes_nothing_and_a_lost_shard_is_made_again(settings):
    first = run(settings)
    before = contents(settings["output"])
    assert first.made == {
        "references": 6, "candidates": 6, "duplicates": 1, "index": 1, "retrieval": 6, "votes": 6,
    }  # fmt: skip
    assert set(run(settings).made.values()) == {0}
    work = Path(settings["output"]) / "work"
    assert [len(load_rows(work / "retrieval" / shard, "rows")) for shard in ("000000", "000005")] == [3, 1]  # of 16
    shutil.rmtree(work / "retrieval" / "000002")
    (work / "votes" / ".tmp-leftover").mkdir()
    for name in RESULTS:
        (Path(settings["output"]) / name).unlink()
    assert run(settings).made == {**dict.fromkeys(STAGES, 0), "retrieval": 1}
    assert contents(settings["output"]) == before
    assert not (work / "votes" / ".tmp-leftover").exists()


def test_processes_and_prefetch_give_the_same_bytes(settings, tmp_path):
    settings["voters"] += [{"type": kind} for kind in ("realism", "pair_consistency", "gt_quality")]
    run(settings)
    run(settings, output=str(tmp_path / "two"), engine={"workers": 2, "prefetch": 2})
    assert contents(settings["output"]) == contents(tmp_path / "two")


def test_changed_options_are_refused_until_restart(settings):
    run(settings)
    before = contents(settings["output"])
    changed = {"retrieval": {**settings["retrieval"], "k3": 1}}
    with pytest.raises(OptionError, match=r"k3: 2 before, 1 now.*--restart.*retrieval, votes"):
        run(settings, **changed)
    assert contents(settings["output"]) == before
    assert set(run(settings).made.values()) == {0}  # set back: goes on
    made = run(settings, restart=True, **changed).made
    assert made == {"references": 0, "candidates": 0, "duplicates": 0, "index": 0, "retrieval": 6, "votes": 6}
    assert all(len(r.retrieved) == 1 for r in manifest_of(settings["output"]))
    assert 0 not in run(settings, restart=True, **changed).made.values()  # nothing changed: everything anew
    with pytest.raises(OptionError, match=r"salt: 0 before, 5 now"):
        run(settings, **changed, voters=[{**settings["voters"][0], "salt": 5}, *settings["voters"][1:]])


@pytest.fixture()
def copied(settings, rendered, tmp_path):
    """The settings with pairs and references that a test may spoil."""
    shutil.copytree(rendered, tmp_path / "rendered")
    settings["candidates"]["dataroot"] = str(tmp_path / "rendered/pairs")
    settings["references"]["images"] = str(tmp_path / "rendered/real")
    return tmp_path / "rendered"


@pytest.mark.parametrize("spoil", ["empty", "truncated", "text", "size"])
def test_unreadable_candidate_stops_or_is_rejected(settings, copied, spoil):
    victim = copied / "pairs/drd/target/coffee1.png"
    whole = victim.read_bytes()
    if spoil == "size":
        write_png(victim, np.zeros((64, 128, 3), np.uint8))
    else:
        victim.write_bytes({"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"no image at all"}[spoil])
    with pytest.raises(DataError, match=r"coffee1\.png.*(unreadable: reject)"):
        run(settings)
    done = sorted(p.name for p in Path(settings["output"], "work", "candidates").iterdir())
    assert len(done) >= 1  # shards before the bad one are kept
    victim.write_bytes(whole)
    assert run(settings).made["candidates"] == 6 - len(done)
    (copied / "pairs/nrs/input/astronaut0.png").unlink()
    with pytest.raises(DataError, match=r"nrs.*astronaut0"):
        run(settings, restart=True)


def test_a_run_that_stopped_at_an_image_goes_on_without_it_or_with_it_mended(settings, copied):
    victim = copied / "pairs/nrd/target/coffee1.png"  # the last
    whole = victim.read_bytes()
    victim.write_bytes(b"")
    with pytest.raises(DataError, match=r"coffee1\.png.* Mend the file and run again, or set `unreadable: reject`"):
        run(settings)
    made = run(settings, unreadable="reject").made
    assert (made["references"], made["candidates"]) == (0, 1)
    with pytest.raises(OptionError, match=r'unreadable: "reject" before, "stop" now.*: references, candidates, dup'):
        run(settings)
    victim.write_bytes(whole)
    run(settings, restart=True)
    mended = contents(settings["output"])
    assert set(run(settings, unreadable="reject").made.values()) == {0}
    run(settings, output=settings["output"] + "2")
    assert mended == contents(settings["output"] + "2")


def test_references_outlive_a_change_of_the_candidates_and_candidates_one_of_the_references(settings, copied):
    run(settings)
    for pair in copied.glob("pairs/nrs/*/coffee1.png"):
        pair.unlink()
    with pytest.raises(OptionError, match=r"\(candidates: .*: inputs, candidates, duplicates, retrieval, votes$"):
        run(settings)
    made = run(settings, restart=True).made
    assert made == {"references": 0, "candidates": 5, "duplicates": 1, "index": 0, "retrieval": 5, "votes": 5}
    (copied / "real/nrs/rocket1.png").unlink()
    made = run(settings, restart=True).made
    assert made == {"references": 5, "candidates": 0, "duplicates": 0, "index": 1, "retrieval": 5, "votes": 5}


def test_a_dry_run_ends_as_the_run_would_and_counts_what_a_restart_makes(settings):
    run(settings)
    changed = parse_options({**settings, "retrieval": {**settings["retrieval"], "k3": 1}}, "t")
    told = []
    for go in (describe_plan, lambda options: Pipeline(options, quiet=True).run()):
        with pytest.raises(OptionError, match=r"k3: 2 before, 1 now.*--restart") as error:
            go(changed)
        told.append(str(error.value))
    assert told[0] == told[1]
    before = {path: path.stat().st_mtime_ns for path in Path(settings["output"]).rglob("*")}
    made = [line.split(", ")[-1] for line in describe_plan(changed, restart=True).splitlines() if "stage" in line]
    assert made == [f"{n} of {of} shards to make" for n, of in ((0, 6), (0, 6), (0, 1), (0, 1), (6, 6), (6, 6))]
    assert {path: path.stat().st_mtime_ns for path in Path(settings["output"]).rglob("*")} == before


def test_requests_reach_the_concurrency_that_is_given_while_the_embedder_gets_its_own_batches(settings, monkeypatch):
    sizes = {"ask": set(), "embed": set()}

    def ask_all(self, ask, items):
        sizes["ask"].add((self.name if isinstance(self, Vlm) else "captioner", len(items)))
        return [ask(item) for item in items]

    def embed(self, images):
        sizes["embed"].add(len(images))
        return np.ones((len(images), 2), np.float32)

    monkeypatch.setattr(VlmClient, "ask_all", ask_all)
    monkeypatch.setattr(VlmCaptioner, "_describe", lambda *_: "rain")
    monkeypatch.setattr(Vlm, "_vote", lambda self, task: Vote(self.name, True, "x"))
    monkeypatch.setattr(StatisticsEmbedder, "embed", embed)
    vlm = {"type": "vlm", "base_url": "http://h/v1", "model": "m", "concurrency": 6}
    pairs = [make_task(i).candidate for i in range(40)]
    root = Path(settings["output"]).parent / "pairs"
    for pair in pairs:
        write_png(root / "input" / f"{pair.id}.png", pair.lq)
        write_png(root / "target" / f"{pair.id}.png", pair.gt)
    write_manifest(root / "m.jsonl", [ManifestRecord(f"input/{p.id}.png", f"target/{p.id}.png", "drs") for p in pairs])
    changes = {"captioner": vlm, "voters": [{**vlm, "name": "few"}, {**vlm, "name": "many", "concurrency": 40}]}
    run(settings, **changes, candidates={"manifest": str(root / "m.jsonl")}, shard_size=40)
    assert sizes["ask"] == {("captioner", 6), ("captioner", 4), ("few", 40), ("many", 40)}
    assert sizes["embed"] == {4, 2}


def test_an_image_without_a_caption_is_treated_as_unreadable_and_costs_no_finished_work(settings, copied):
    files = sorted(copied.glob("pairs/*/input/*.png")) + sorted(copied.glob("real/*/*.png"))
    (copied / "blip.csv").write_text("image,caption\n" + "".join(f"{path},rain at night\n" for path in files[:-1]))
    settings["captioner"] = {"type": "sidecar", "files": str(copied / "blip.csv")}
    with pytest.raises(DataError, match=r"no caption for the image 'nrs/rocket1.png' .*unreadable: reject.*are kept"):
        run(settings)
    made = run(settings, unreadable="reject").made
    assert (made["references"], made["candidates"]) == (1, 6)
    records = manifest_of(settings["output"])
    assert all(found["id"] != "nrs/rocket1.png" for record in records for found in record.retrieved)
    (copied / "blip.csv").write_text("image,caption\n" + "".join(f"{path},rain at night\n" for path in files[1:]))
    run(settings, unreadable="reject", restart=True)
    record = next(r for r in manifest_of(settings["output"]) if r.lq.endswith("drd/input/astronaut0.png"))
    assert record.keep is False and record.reason.startswith("unreadable: ") and "no caption" in record.reason


def test_rejected_unreadable_pairs_and_references_are_named(settings, copied):
    (copied / "pairs/drd/target/coffee1.png").write_bytes(b"")
    (copied / "real/drs/rocket1.png").write_bytes(b"x")
    outcome = run(settings, unreadable="reject")
    assert outcome.statistics["outcomes"]["unreadable"] == 1
    records = manifest_of(settings["output"])
    bad = next(r for r in records if r.lq.endswith("drd/input/coffee1.png"))
    assert bad.keep is False and bad.votes == {} and bad.retrieved == ()
    assert bad.reason.startswith("unreadable: ") and "coffee1.png" in bad.reason
    assert all(f["id"] != "drs/rocket1.png" for r in records for f in r.retrieved)
    for shard in Path(settings["output"], "work", "candidates").iterdir():  # what is missing has its place, as zeros
        read = [line["error"] is None for line in load_lines(shard, "rows")]
        assert [row.any() for row in load_rows(shard, "visual")] == read
    for path in (copied / "real").rglob("*.png"):
        path.write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 16 images can be read"):
        run(settings, unreadable="reject", restart=True)


def test_the_manifest_holds_only_what_the_data_set_accepts(settings, copied):

    lq = next((copied / "pairs/drs/input").iterdir())
    cv2.imwrite(str(lq), cv2.imread(str(lq)).astype(np.uint16) * 257)
    with pytest.raises(DataError, match=rf"{lq.name}.*more than 8 bits"):
        run(settings)
    run(settings, unreadable="reject", restart=True)
    assert [r.keep for r in manifest_of(settings["output"]) if r.lq.endswith(f"input/{lq.name}")].count(False) >= 1
    run(settings, candidates={**settings["candidates"], "convert": ["depth16"]}, restart=True)
    assert all(r.size == (128, 128) for r in manifest_of(settings["output"]))
    with pytest.raises(OptionError, match=r"convert\[0\]: found the text 'gray'; .* Did you mean 'grey'"):
        run(settings, candidates={**settings["candidates"], "convert": ["gray"]})


@pytest.mark.parametrize(
    ("hook", "answer", "words"),
    [
        ("measure", {"mean": float("nan")}, "measured mean = nan; expected a finite number"),
        ("measure", None, "measured None; expected names and values"),
        ("vote", [], "gave 0 votes on 3 tasks"),
        ("vote", [True] * 3, "returned True; expected a Vote with its name"),
        ("vote", [Vote("second", True, "x")] * 3, "returned Vote.voter='second'.*expected a Vote with its name"),
        (
            "vote",
            [Vote("first", np.bool_(True), "x")] * 3,
            "returned .*np.True_.* its name and True, False or None",
        ),
    ],
)
def test_a_voter_that_measures_or_votes_nonsense_is_named(settings, monkeypatch, hook, answer, words):
    from stub_voters import HashVoter

    monkeypatch.setattr(HashVoter, hook, lambda *_: answer)
    with pytest.raises(DistillError, match=f"the voter 'first' {words}"):
        run(settings)


def test_a_voter_derived_from_a_registered_one_votes_beside_it_under_its_own_name(settings, monkeypatch):
    monkeypatch.setattr(VOTER_REGISTRY, "_obj_map", dict(VOTER_REGISTRY._obj_map))
    VOTER_REGISTRY.register(type("MyRealism", (Realism,), {}))
    run(settings, voters=[{"type": "realism"}, {"type": "MyRealism"}])
    assert {tuple(record.votes) for record in manifest_of(settings["output"])} == {("realism", "MyRealism")}
    VOTER_REGISTRY.register(type("Named", (Realism,), {"__init__": lambda self: Realism.__init__(self, "realism")}))
    with pytest.raises(OptionError, match=r"two are named alike in \['realism', 'realism'\]"):
        parse_options({**settings, "voters": [{"type": "realism"}, {"type": "Named"}]}, "t")


@pytest.mark.parametrize(
    ("section", "value", "told"),
    [
        ("references", {"images": "nothing"}, r"nothing holds no reference image; expected images \(\.avif"),
        ("references", {"images": "gone"}, r"references\.images: .*gone: no such folder or list file"),
        ("references", {"images": "list.txt"}, r"list\.txt holds no reference image; expected one path a line"),
        ("candidates", {"manifest": "bad.jsonl"}, r"bad\.jsonl:2: unknown key 'rain_tipe'\. Did you mean 'rain_type'"),
        ("candidates", {"manifest": "none.jsonl"}, r"none\.jsonl: cannot be read"),
    ],
)
def test_empty_missing_or_wrong_inputs(settings, tmp_path, monkeypatch, section, value, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "list.txt").write_text("\n\n")
    pair = {"lq": "pairs/drs/input/coffee0.png", "gt": "pairs/drs/target/coffee0.png", "rain_type": "drs"}
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(pair)}\n{json.dumps({**pair, 'rain_tipe': 'drs'})}\n")
    with pytest.raises(DataError, match=told):
        run(settings, **{section: value})


@pytest.mark.parametrize(("folder", "count"), [("pairs", 16), ("pairs/drs", 4), ("", 32), ("pairs/drs/input", 4)])
def test_references_in_the_layout_of_pairs_are_the_rainy_ones_only(folder, count, rendered, warnings_of):
    found = list_references(ReferenceOptions(rendered / folder))
    assert len(found) == count and not any("target" in reference.path.parts for reference in found)
    skipped = {path for path in (rendered / "pairs").glob("*/target") if path.is_relative_to(rendered / folder)}
    told = "".join(warnings_of)
    assert all(str(path) in told for path in skipped) and ("left out" in told) is bool(skipped)


@pytest.mark.parametrize(
    ("folder", "types", "found"),
    [
        ("drs/smoke", True, "drs"),
        ("drs/smoke", False, None),
        ("drs/smoke", ["smoke", "drs"], "smoke"),
        ("drs/smoke", [], None),
        ("a/target", True, None),  # alone it holds references like any other
    ],
)
def test_rain_types_of_references_follow_their_folders(folder, types, found, rendered, tmp_path):
    shutil.copytree(rendered / "real/drs", tmp_path / folder)
    assert [r.rain_type for r in list_references(ReferenceOptions(tmp_path, types))] == [found] * 4


def test_reference_list_with_types(settings, rendered, tmp_path):
    rows = [{"image": str(rendered / "real/nrd/rocket0.png"), "rain_type": "nrd", "id": "a"}]
    (tmp_path / "refs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    outcome = run(settings, references={"images": str(tmp_path / "refs.jsonl")})
    agreement = outcome.statistics["retrieved references of the candidate's rain type"]
    assert agreement["best reference"] == 0.25  # one reference, four types of candidates
    (tmp_path / "refs.jsonl").write_text("\n".join(map(json.dumps, rows * 2)))
    with pytest.raises(DataError, match="the id 'a' occurs twice"):
        run(settings, references={"images": str(tmp_path / "refs.jsonl")}, restart=True)


@pytest.fixture()
def halves(rendered, tmp_path):
    """The pairs in two manifests and the references in a list and a folder, each in a folder of its own."""
    manifests = []
    for rain_type in ("drs", "nrd"):
        shutil.copytree(rendered / "pairs" / rain_type, tmp_path / rain_type)
        records = [ManifestRecord(f"input/{path.name}", f"target/{path.name}", rain_type)
                   for path in sorted((tmp_path / rain_type / "input").iterdir())]  # fmt: skip
        write_manifest(tmp_path / rain_type / "pairs.jsonl", records)
        manifests.append(str(tmp_path / rain_type / "pairs.jsonl"))
    shutil.copytree(rendered / "real/drs", tmp_path / "one/drs")
    shutil.copytree(rendered / "real/nrd", tmp_path / "two/nrd")
    (tmp_path / "one/list.txt").write_text("drs/chelsea0.png\ndrs/rocket0.png\n")
    return manifests, [str(tmp_path / "one/list.txt"), str(tmp_path / "two")]


def test_several_manifests_and_lists_are_one_set_with_paths_relative_to_each(settings, halves, tmp_path):
    manifests, references = halves
    changes = {"candidates": {"manifest": manifests}, "references": {"images": references}}
    for options, told in (
        ({**settings, **changes}, ["6 references, 8 candidates"]),
        (settings, ["16 references, 16 candidates", "6 of 6 shards to make", "at most 16 VLM calls",
                    "voter third: at most 16 requests with 48 images"]),
    ):  # fmt: skip
        text = describe_plan(parse_options(options, "t"))
        assert not [part for part in told if part not in text]
        assert not Path(settings["output"]).exists(), "a dry run counts and writes nothing"
    outcome = run(settings, **changes)
    records = manifest_of(settings["output"])
    assert [r.rain_type for r in records] == ["drs"] * 4 + ["nrd"] * 4
    assert all((Path(settings["output"]) / path).is_file() for r in records for path in (r.lq, r.gt))
    ids = {entry["id"] for r in records for entry in r.retrieved}
    assert ids <= {"drs/chelsea0.png", "drs/rocket0.png", *(f"../two/nrd/{n}{i}.png" for n in ("chelsea", "rocket")
                                                            for i in (0, 1))}  # fmt: skip
    assert outcome.statistics["retrieved references of the candidate's rain type"]["candidates judged"] == 8
    listed = (tmp_path / "one/list.txt").read_text()
    (tmp_path / "one/list.txt").write_text(f"{listed}drs/rocket1.png\n")
    with pytest.raises(OptionError, match=r"references: .* before, .* now"):
        run(settings, **changes)
    (tmp_path / "one/list.txt").write_text(listed)
    write_manifest(manifests[1], list(read_manifest(manifests[1]))[1:])
    with pytest.raises(OptionError, match=r"made with other options or inputs \(candidates:"):
        run(settings, **changes)
    write_manifest(tmp_path / "more.jsonl", [ManifestRecord("drs/input/coffee0.png", "drs/target/coffee0.png", "nrs")])
    told = r"more\.jsonl: input/coffee0\.png: its rain type is 'nrs' here and 'drs' in .*drs"
    with pytest.raises(DataError, match=told):
        run(settings, candidates={"manifest": [manifests[0], str(tmp_path / "more.jsonl")]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"retrieval": {"index": "Flatt"}}, "retrieval.index: FAISS knows no index 'Flatt'"),
        ({"retrieval": {"index_file": "none.faiss"}}, "retrieval.index_file: there is no file none.faiss"),
        ({"name": ".."}, r"name: found the text '\.\.'; expected a text .* not \. or \.\."),
        ({"output": ""}, "output: found the text ''; expected a path"),
    ],
)
def test_what_would_end_a_run_late_is_told_by_a_dry_run(settings, change, message):
    with pytest.raises(OptionError, match=message):
        describe_plan(parse_options({**settings, **change}, "t"))
    assert parse_options({**settings, "name": ".rain: v1?"}, "t").name == ".rain: v1?"  # as folders here may be named


def test_results_that_cannot_be_written_are_told_before_the_work(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file/results: cannot be written"):
        run(settings, output=str(tmp_path / "file/results"), work=str(tmp_path / "work"))
    assert not (tmp_path / "work/references").exists()


def test_references_named_in_two_lists_count_once_and_must_agree(halves, tmp_path):
    lists = [tmp_path / "one/list.txt", tmp_path / "more.jsonl"]
    row = {"image": "one/drs/rocket0.png", "rain_type": "drs"}

    def listed(row):
        lists[1].write_text(json.dumps(row))
        return [(r.id, r.rain_type) for r in list_references(ReferenceOptions(lists, False))]

    assert listed(row) == [("drs/chelsea0.png", None), ("drs/rocket0.png", "drs")]
    with pytest.raises(DataError, match=r"more\.jsonl: .*rocket0\.png: its id is 'x' here and 'drs/rocket0\.png' in"):
        listed({**row, "id": "x"})
    with pytest.raises(DataError, match=r"more\.jsonl: the id 'drs/rocket0\.png' occurs twice"):
        listed({**row, "image": "two/nrd/rocket0.png", "id": "drs/rocket0.png"})
    lists[0].write_text(json.dumps({"image": "drs/rocket0.png", "rain_type": "nrs"}))
    with pytest.raises(DataError, match=r"its rain type is 'drs' here and 'nrs' in .*list\.txt; expected the same"):
        listed(row)


DESCRIBED = ["references", "candidates"]
VOTER = {"type": "HashVoter", "name": "first"}


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"captioner": {"type": "vlm", "base_url": "http://h/v1", "model": "m"}}, DESCRIBED),
        ({"embedder": {"type": "BrokenEmbedder"}}, DESCRIBED),
        ({"text_encoder": {"type": "sentence_transformers"}}, DESCRIBED),
        ({"voters": [{**VOTER, "salt": 9}]}, [*DESCRIBED, "votes"]),
        ({"voters": [{**VOTER, "name": "other"}]}, [*DESCRIBED, "votes"]),
        ({"voters": [VOTER, {"type": "vlm", "base_url": "http://h/v1", "model": "m"}]}, ["votes"]),
        ({"retrieval": {"working_size": 32}}, DESCRIBED),
        ({"unreadable": "reject"}, DESCRIBED),
        ({"candidates": {"dataroot": "d", "convert": ["grey"]}}, ["candidates"]),
        ({"duplicates": "keep"}, ["duplicates"]),
        ({"retrieval": {"index": "IVF4,Flat"}}, ["index"]),
        ({"retrieval": {"index": "IVF4,Flat", "nprobe": 2}}, ["index", "retrieval"]),
        ({"retrieval": {"index_file": __file__}}, ["index"]),
        ({"retrieval": {"k1": 7}}, ["retrieval"]),
        ({"retrieval": {"k2": 3}}, ["retrieval"]),
        ({"retrieval": {"k3": 1}}, ["retrieval"]),
        ({"early_exit": False}, ["votes"]),
        ({"engine": {"workers": 3, "prefetch": 1}, "report": {"examples": 1}, "output": "o"}, []),
    ],
)
def test_what_changes_a_stages_results_is_part_of_its_state(settings, change, stages):
    settings["voters"] = [VOTER]
    if "retrieval" in change:
        change = {"retrieval": {**settings["retrieval"], **change["retrieval"]}}

    def state(settings):
        options = parse_options(settings, "test.yml")
        context = Context(Job(options, "", 0, "", "", 0))
        return {name: stage.depends_on(context) for name, stage in STAGES.items()}

    before, after = state(settings), state({**settings, **change})
    assert [name for name in STAGES if before[name] != after[name]] == stages


def test_copies_are_rejected_before_voting_beside_unreadable_pairs_too(settings, copied):

    (copied / "pairs/drd/target/astronaut1.png").write_bytes(b"")
    for folder in ("input", "target"):
        drd, nrs = copied / "pairs/drd" / folder, copied / "pairs/nrs" / folder
        shutil.copy(drd / "astronaut0.png", drd / "zz_copy.png")  # of the first of all
        image = cv2.imread(str(nrs / "coffee0.png"))
        assert cv2.imwrite(str(nrs / "zz_anew.png"), image, [cv2.IMWRITE_PNG_COMPRESSION, 0])  # in other bytes
    run(settings, unreadable="reject")
    records = {r.lq[-18:]: r for r in manifest_of(settings["output"])}
    copy = records["/input/zz_copy.png"]
    assert (copy.keep, copy.votes, copy.reason) == (False, {}, "duplicate of drd/input/astronaut0.png")
    assert records["/input/zz_anew.png"].reason == "duplicate of nrs/input/coffee0.png"
    assert sum(record.reason.startswith("duplicate") for record in records.values()) == 2
    kept = run(settings, unreadable="reject", duplicates="keep", restart=True)
    assert kept.statistics["outcomes"].get("duplicate") is None


def cast(*verdicts):
    return [Vote(f"v{i}", verdict, f"because {i}") for i, verdict in enumerate(verdicts)]


def test_three_voters_follow_the_paper_and_an_early_exit_never_changes_the_decision():
    for verdicts in itertools.product((True, False, None), repeat=3):
        votes = cast(*verdicts)
        decision = decide(votes, 3)
        assert decision.keep is (sum(v is True for v in verdicts) >= 2)
        assert (decision.outcome == "kept") is decision.keep
        assert (decision.outcome == "rejected") is (sum(v is False for v in verdicts) >= 2)
        first = votes[:2]
        if is_settled(first, 3):
            assert decide(first, 3).keep is decision.keep
        else:
            assert {decide([*first, Vote("v2", v, "")], 3).keep for v in (True, False)} == {True, False} or (
                None in verdicts[:2]
            )


def test_outcomes_are_named_with_count_and_reasons():
    tie = decide(cast(True, False, None), 3)
    assert (tie.outcome, tie.keep) == ("tie", False)
    assert tie.reason == "tie, 1 for, 1 against, 1 abstained: v1: because 1"
    assert decide(cast(None, None, None), 3).outcome == "undecided"
    assert decide(cast(True, None, None), 3).outcome == "undecided"
    assert decide(cast(True, True, False, False), 4).outcome == "tie"
    assert decide(cast(True, False, True), 3).reason == "2 for, 1 against: v0: because 0; v2: because 2"
    assert [needed_votes(voters) for voters in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]
    with pytest.raises(ValueError, match="do not fit 2 voters"):
        decide(cast(True, True, True), 2)
    with pytest.raises(ValueError, match="do not fit"):
        decide([Vote("a", True, ""), Vote("a", True, "")], 3)
