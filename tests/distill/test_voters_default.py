"""The three voters without weights: what they measure, and what they and their majority say; on snow and haze, too."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from unirain_plugin.distill.records import Reference, VoteTask
from unirain_plugin.distill.registry import VOTER, build_part, load_parts
from unirain_plugin.distill.stages.vote import decide
from unirain_plugin.distill.voters import clean_image
from unirain_plugin.distill.voters.default import pair_evidence
from unirain_plugin.distill.voters.findings import SURETY_LIMIT, Finding, rain_in_clean
from unirain_plugin.distill.voters.findings import judge as judge_findings
from unirain_plugin.distill.voters.veil import veiled
from unirain_plugin.errors import OptionError
from unirain_plugin.rain.light import to_codes, to_linear
from unirain_plugin.rain.pair_files import cut, read_photo
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.study.benchmarks import distill as benchmark
from unirain_plugin.study.benchmarks.distill import Judge
from unirain_plugin.study.planted import Pair, plant

TYPES = ("realism", "pair_consistency", "gt_quality")
load_parts()


def built(kind, **keys):
    return build_part(VOTER, {"type": kind, **keys}, "voters[0]")


def task_of(lq, gt, rain_type="drs", measured=None):
    return VoteTask(benchmark.candidate_of(Pair(lq, gt, rain_type), "p"), [], *([measured] if measured else []))


def coded(image, quality):
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def assert_found(kind, lq, gt):
    """A voter names the kind, and the majority rejects the pair."""
    votes = votes_on(lq, gt)
    assert kind in named(votes) and not decide(list(votes.values()), 3).keep


@pytest.fixture(scope="module")
def good():
    return benchmark.render_pairs(sample_photos("all"), 24, 256, 3)


@pytest.fixture(scope="module")
def judge(good):
    return Judge([pair.lq for pair in good])


def scene(seed=0, side=256):
    """A sharp image: rectangles of many sizes, and a little texture."""
    rng = np.random.default_rng(seed)
    image = np.full((side, side, 3), 110, np.float32)
    for _ in range(120):
        x, y, w, h = rng.integers(0, side, 2).tolist() + rng.integers(5, side // 4, 2).tolist()
        image[y : y + h, x : x + w] = rng.uniform(40, 180, 3)
    return np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)


def streaks(gt, seed=1, strength=60.0, density=0.003):
    """Rain that is not the renderer's: noise smeared along one direction, added."""
    rng = np.random.default_rng(seed)
    sparks = (rng.random(gt.shape[:2]) < density).astype(np.float32)
    kernel = np.zeros((25, 25), np.float32)
    cv2.line(kernel, (9, 0), (15, 24), 1.0, 1)
    rain = cv2.GaussianBlur(cv2.filter2D(sparks, -1, kernel), (0, 0), 0.7)
    return np.clip(gt + strength * np.minimum(rain, 1.5)[..., None], 0, 255).astype(np.uint8)


def evidence(lq, gt, rain_type="drs"):
    return pair_evidence(benchmark.candidate_of(Pair(lq, gt, rain_type), "p"))


def votes_on(lq, gt, rain_type="drs"):
    task = task_of(lq, gt, rain_type)
    return {name: built(name).vote([task])[0] for name in TYPES}


def kinds(votes):
    return {vote.details["kind"] for vote in votes.values() if vote.verdict is False}


def named(votes):
    """The kinds of all findings of the voters that say no, not only those that give the reason."""
    return kinds(votes) | {kind for vote in votes.values() for kind in vote.details.get("also", [])}


def test_good_pairs_of_another_kind_of_rain_are_kept():
    for seed in range(4):
        gt = scene(seed)
        for density in (0.001, 0.003, 0.01):
            votes = votes_on(streaks(gt, seed, density=density), gt)
            assert all(vote.verdict for vote in votes.values()), (density, votes)


def test_the_shift_is_measured_also_between_pixels():
    gt = scene(side=300)
    for dx, dy in ((2, 0), (-1, 3), (0, -8), (6, 6)):
        pair = streaks(gt)[20:276, 20:276], gt[20 + dy : 276 + dy, 20 + dx : 276 + dx]
        figures = evidence(*pair)
        assert figures["shift"] == pytest.approx(np.hypot(dx, dy), abs=0.15)
        assert figures["shift_gain"] > 0.3
        assert_found("misaligned", *pair)
    big = scene(side=516)
    gt, moved = (cv2.resize(big[:512, x : x + 512], (256, 256), interpolation=cv2.INTER_AREA) for x in (0, 3))
    assert evidence(streaks(gt), moved)["shift"] == pytest.approx(1.5, abs=0.25)


def test_exposure_is_told_from_mist():
    gt = scene()
    assert evidence(gt, gt)["tone_shift"] == 0
    brighter = streaks(np.clip(gt * 1.35, 0, 255).astype(np.uint8))
    assert evidence(brighter, gt)["tone_levels"] > 20
    assert "exposure_shift" in kinds(votes_on(brighter, gt))
    figures = evidence(streaks(np.clip(gt * 0.85 + 0.15 * 220, 0, 255).astype(np.uint8)), gt)
    assert figures["mist"] == pytest.approx(0.15, abs=0.07)
    assert figures["tone_shift"] < 1


def test_noise_is_measured_in_levels_and_blamed_on_its_image():
    gt = scene()
    noisy = np.clip(gt + np.random.default_rng(0).normal(0, 12, gt.shape), 0, 255).astype(np.uint8)
    figures = evidence(streaks(gt), noisy)
    # Luma of independent noise in three channels: σ · √(.299² + .587² + .114²) = 0.67 σ.
    assert figures["gt_noise"] == pytest.approx(0.67 * 12, rel=0.15)
    votes = votes_on(streaks(gt), noisy)
    assert "only the clean image is noisy" in votes["pair_consistency"].reason
    assert not decide(list(votes.values()), 3).keep


def test_the_jpeg_grid_is_found_at_any_phase():
    gt = scene(side=260)
    for shift in (0, 3):
        figures = evidence(streaks(gt)[shift:, shift:], coded(gt, 12)[shift:, shift:])
        assert figures["gt_blocks"] > 0.6
        assert figures["lq_blocks"] < 0.2


def test_half_of_the_rain_left_in_the_clean_image_is_seen():
    gt = scene()
    lq = streaks(gt)
    half = ((lq.astype(int) + gt) // 2).astype(np.uint8)
    assert evidence(lq, half)["leftover"] > 0.5
    votes = votes_on(lq, half)
    assert votes["gt_quality"].details["kind"] == votes["pair_consistency"].details["kind"] == "still_rainy"
    for photo in (read_photo(path) for path in sample_photos("all") if path.stem in ("astronaut", "coffee", "rocket")):
        photo = cut(photo, (256, 256), np.random.default_rng(5))
        lq, gt = (image[..., ::-1].copy() for image in render_rain(photo, "drd", 1)[:2])
        half = ((lq.astype(int) + gt) // 2).astype(np.uint8)
        dirty, good = (rain_in_clean(evidence(lq, clean, "drd"), "drd") for clean in (half, gt))
        assert dirty.severity > 1.5 and dirty.reason.startswith("there are drops in both images")
        assert good.severity < 0.8


@pytest.mark.parametrize("seed", range(3))
def test_a_third_of_faint_rain_left_in_a_rough_scene_is_seen(seed):
    """Block by block the scene's texture hides it; over all blocks the sign is the same."""
    texture = np.random.default_rng(seed).normal(0, 14, (256, 256, 1))
    gt = np.clip(scene(seed) + texture, 0, 255).astype(np.uint8)
    lq = streaks(gt, seed, strength=30)
    dirty = np.clip(np.round(gt + 0.3 * (lq.astype(float) - gt)), 0, 255).astype(np.uint8)
    figures = evidence(lq, dirty)
    assert figures["leftover"] < 0.1 and figures["likeness_surety"] > SURETY_LIMIT
    assert votes_on(lq, dirty)["pair_consistency"].reason.startswith("the clean image is still rainy: all over")
    assert abs(evidence(lq, gt)["likeness_surety"]) < 3


def test_what_else_darkens_real_rain_is_not_taken_for_rain_in_the_clean_image():
    gt, other = scene(), streaks(scene(), seed=9)
    passing = streaks(gt)  # something dark and rough has come into the scene
    passing[60:120, 60:120] = np.random.default_rng(0).integers(0, 60, (60, 60, 1))
    misty = streaks(np.clip(gt * 0.7 + 0.3 * 90, 0, 255).astype(np.uint8))
    for lq in (passing, misty):
        assert evidence(lq, gt)["darker_structure"] > 0.04
        assert rain_in_clean(evidence(lq, gt), "drs").severity < 0.8
        assert rain_in_clean(evidence(lq, other), "drs").severity > 1.5


def test_dense_rain_coded_as_jpeg_is_not_taken_for_a_blurred_clean_image():
    for seed in range(3):
        gt = cv2.GaussianBlur(scene(seed), (0, 0), 1.0)
        lq = streaks(gt, seed, density=0.02)
        votes = votes_on(coded(lq, 85), coded(gt, 85))
        assert "blurred" not in kinds(votes), votes
        assert evidence(coded(lq, 85), coded(gt, 85))["lost_detail"] > 0.6  # which alone would look like blur
    lighter = streaks(gt, seed, density=0.003)
    assert "blurred" in kinds(votes_on(lighter, cv2.GaussianBlur(gt, (0, 0), 2.0)))


def hue_turned(image, degrees):
    hsv = cv2.cvtColor(np.float32(image) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0] + degrees) % 360
    return np.round(255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)).astype(np.uint8)


def test_a_turned_hue_is_measured_in_degrees():
    gt = scene()
    lq = streaks(gt)
    assert evidence(lq, gt)["hue_turn"] < 3
    for degrees in (-45, -30, 20, 30, 90):
        assert evidence(lq, hue_turned(gt, degrees))["hue_turn"] == pytest.approx(abs(degrees), abs=4)
        for pair in ((lq, hue_turned(gt, degrees)), (hue_turned(lq, degrees), gt)):
            assert_found("colour_shift", *pair)


def faded(image, share):
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return np.round(image + share * (grey.astype(float) - image)).astype(np.uint8)


def test_colour_that_one_image_lost_is_told_and_a_grey_pair_is_kept():
    gt = scene()
    lq = streaks(gt)
    for pair in ((lq, faded(gt, 1)), (lq, faded(gt, 0.6)), (faded(lq, 1), gt)):
        assert_found("colour_shift", *pair)
    assert all(vote.verdict for vote in votes_on(faded(lq, 1), faded(gt, 1)).values())


@pytest.mark.parametrize("sides", [("top", "bottom", "left", "right"), ("left",), ("top", "bottom")])
@pytest.mark.parametrize(("edge", "colour"), [(1, (0, 0, 0)), (6, (255, 255, 255)), (30, (200, 30, 60))])
def test_a_border_on_the_clean_image_alone_is_seen_at_any_size(sides, edge, colour):
    gt = scene(side=900)  # larger than the window that is measured otherwise
    places = {"top": np.s_[:edge], "bottom": np.s_[-edge:], "left": np.s_[:, :edge], "right": np.s_[:, -edge:]}
    framed, both = gt.copy(), streaks(gt)
    for side in sides:
        framed[places[side]] = colour
    votes = votes_on(streaks(gt), framed)
    assert votes["pair_consistency"].details["kind"] == votes["gt_quality"].details["kind"] == "framed"
    for side in sides:
        both[places[side]] = colour
    assert "framed" not in named(votes_on(both, framed))  # both have it: nothing to learn there, but no harm


def woven(gt, moves):
    """Every other line moved."""
    moved = gt.copy()
    for start, columns in moves.items():
        moved[start::2] = np.roll(gt[start::2], columns, axis=1)
    return moved


INTERLACED = {
    "woven": lambda gt: woven(gt, {1: 3}),
    "woven both ways": lambda gt: woven(gt, {0: -3, 1: 3}),
    "half the lines": lambda gt: gt[::2].repeat(2, axis=0),
    "scan lines": lambda gt: gt // np.resize(np.uint8([1, 2]), (len(gt), 1, 1)),
}


@pytest.mark.parametrize("kind", INTERLACED)
@pytest.mark.parametrize("side", [256, 1400])
def test_an_interlaced_clean_image_is_seen_at_full_resolution(kind, side):
    gt = scene(side=side)
    assert_found("interlaced", streaks(gt), INTERLACED[kind](gt))
    good = evidence(streaks(gt), gt)
    assert good["line_parity"] < 0.06 and good["weave"] < 0.2


@pytest.mark.parametrize("rain_type", ["drd", "nrd"])
def test_drops_of_the_clean_image_s_own_are_found_and_good_pairs_kept(rain_type):
    good, photos = [], [read_photo(path) for path in sample_photos("all")]
    for seed in range(16):
        rng = np.random.default_rng(seed)
        pair = render_rain(cut(photos[seed % len(photos)], (256, 256), rng), rain_type, rng)
        good.append(Pair(pair.lq, pair.gt, rain_type))
    judge = Judge([])
    bad = [Pair(p.lq, render_rain(p.gt, "drd", 100 + i).lq, rain_type) for i, p in enumerate(good)]
    assert sum(judge(pair)[0] for pair in good) >= 15
    assert sum(judge(pair)[0] for pair in bad) <= 1


def test_small_images_with_few_drops_are_not_taken_for_interlaced():
    parities, photos = [], [read_photo(path) for path in sample_photos("held-out")]
    for seed in range(24):
        rng = np.random.default_rng(seed)
        photo = photos[seed % len(photos)]
        pair = render_rain(cut(photo, (64, 64), rng), ("drd", "nrd", "snow")[seed // 8], rng)
        parities.append(clean_image.lines(pair.lq, pair.gt)["line_parity"])
    assert max(parities) < 0.06


def test_swapped_images_are_called_swapped_and_those_without_rain_or_content_are_rejected():
    gt, tiny = scene(), scene(side=40)
    votes = votes_on(gt, streaks(gt))
    assert votes["realism"].details["kind"] == votes["gt_quality"].details["kind"] == "swapped"
    assert "lies in the clean image" in votes["realism"].reason
    assert kinds(votes_on(gt, gt)) == {"no_rain"}
    assert not decide(list(votes_on(gt, np.zeros_like(gt)).values()), 3).keep
    assert {vote.verdict for vote in votes_on(tiny, tiny).values()} == {None}


def test_rain_beyond_all_references_is_unreal():
    voter = built("realism")
    pale = [cv2.GaussianBlur(scene(seed), (0, 0), 6) // 4 + 90 for seed in range(10)]
    voter.setup([Reference(str(i), Path(str(i)), _image=image) for i, image in enumerate(pale)])
    task = task_of(streaks(scene(), strength=150), scene())
    vote = voter.vote([task])[0]
    assert vote.verdict is False
    assert vote.details["kind"].startswith("unreal")
    assert built("realism").vote([task])[0].verdict is True


def test_any_size_is_judged_and_measured_figures_give_the_same_vote_without_images():
    for shape in ((64, 64), (65, 131), (400, 97), (1300, 1200)):
        gt = cv2.resize(scene(), shape[::-1], interpolation=cv2.INTER_CUBIC)
        assert all(vote.verdict is not None for vote in votes_on(streaks(gt), gt).values()), shape
    gt = scene()
    task = task_of(streaks(gt), gt)
    for name in TYPES:
        voter = built(name, name=f"my_{name}")
        figures = json.loads(json.dumps(dict(voter.measure(task.candidate)), allow_nan=False))
        blind = task_of(None, None, measured={voter.name: figures})  # reading an image would raise
        assert voter.vote([blind]) == voter.vote([task])


def test_strictness_moves_the_limits_and_the_first_broken_one_gives_the_reason():
    findings = [Finding("a", 0.5, "first"), Finding("b", 0.9, "second"), Finding("c", 0.8, "third")]
    assert judge_findings("v", findings, 1.0, "fine").verdict is True
    vote = judge_findings("v", findings, 1.3, "fine")
    assert (vote.verdict, vote.reason) == (False, "second")
    assert vote.details == {"severity": 1.17, "kind": "b", "also": ["c"]}
    for wrong in ("high", 0, True, 100):
        with pytest.raises(OptionError, match=r"strictness: expected a number from 0\.1 to 10"):
            built("realism", strictness=wrong)


def test_most_planted_pairs_are_found_and_most_good_ones_kept(good, judge):
    kept = [judge(pair)[0] for pair in good]
    assert np.mean(kept) >= 0.85
    rng = np.random.default_rng(0)
    kinds = "misaligned_3px wrong_scene swapped blurred exposure_shift flat_rain still_rainy half_left hue_turned "
    for kind in (kinds + "grey_clean framed_clean interlaced_clean").split():
        bad = [plant(kind, pair, good[(i + 1) % len(good)], rng) for i, pair in enumerate(good[:12])]
        rejected = [not judge(pair)[0] for pair in bad]
        assert np.mean(rejected) >= 0.75, kind


def test_the_benchmark_prints_a_row_for_each_kind(capsys, tmp_path):
    status = benchmark.main(["--pairs", "12", "--planted", "3", "--references", "8", "--size", "128",
                             "--json", str(tmp_path / "r.json")])  # fmt: skip
    rows = {row["kind"]: row for row in json.loads((tmp_path / "r.json").read_text())["rows"]}
    text = capsys.readouterr().out
    assert all(f"\n{kind} " in f"\n{text}" for kind in rows)
    assert rows["duplicate"]["rejected"] == 1.0
    assert status == (0 if all(row["met"] is not False for row in rows.values()) else 1)
    with pytest.raises(OptionError, match="--pairs: expected 4 or more"):
        benchmark.main(["--pairs", "1"])


@pytest.fixture(scope="module")
def photos():
    images = [cv2.imread(str(path))[..., ::-1] for path in sample_photos("all")]
    return [np.ascontiguousarray(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA)) for image in images]


def test_the_veil_is_found(photos):
    opacity, airlight = 0.6, np.array([0.5, 0.55, 0.6], np.float32)
    hazy = to_codes((1 - opacity) * to_linear(photos[0]) + opacity * airlight)
    under, found = veiled(hazy, photos[0])
    assert np.abs(under.astype(int) - hazy).mean() < 1.0
    assert found == pytest.approx(opacity, abs=0.06)
    same, none = veiled(photos[0], photos[0])
    assert np.abs(same.astype(int) - photos[0]).mean() < 1.0 and none < 0.03


@pytest.mark.parametrize("rain_type", ["snow", "haze"])
def test_good_pairs_are_kept_and_bad_ones_are_not(photos, rain_type):
    good = [Pair(*render_rain(photo, rain_type, seed)[:2], rain_type) for seed, photo in enumerate(photos)]
    judge, rng = Judge([pair.lq for pair in good]), np.random.default_rng(0)
    kept = [judge(pair)[0] for pair in good]
    assert sum(kept) >= len(good) - 1
    for kind in ("misaligned_4px", "wrong_scene", "swapped", "no_rain", "interlaced_clean"):
        spoilt = [plant(kind, pair, other, rng) for pair, other in zip(good, good[1:] + good[:1], strict=True)]
        assert sum(judge(pair)[0] for pair in spoilt) <= 1, kind
