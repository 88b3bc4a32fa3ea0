"""The voter that asks whether references show such rain."""

import numpy as np
import pytest

from unirain_plugin.distill.records import Candidate, Reference
from unirain_plugin.distill.registry import VOTER, build_part
from unirain_plugin.distill.voters.likeness import VIEWS, Known
from unirain_plugin.errors import OptionError
from unirain_plugin.rain.pair_files import cut, read_photo
from unirain_plugin.rain.render import DropParams, RainParams, StreakParams, render_rain
from unirain_plugin.rain.sample_photos import sample_photos
from unirain_plugin.support.files import write_png

FINE = RainParams(streaks=StreakParams(angle=(-5, 5), width=(0.5, 0.8), density=(60, 80), veil_share=0))


def build(**keys):
    return build_part(VOTER, {"type": "likeness", **keys}, "voters[0]")


@pytest.fixture(scope="module")
def windows():
    """Clean windows of 128 pixels, of several photographs."""
    photos = [read_photo(path, ("grey", "alpha")) for path in sample_photos("train")]
    return [cut(photos[n % len(photos)], (128, 128), np.random.default_rng(n)) for n in range(16)]


def test_a_distance_is_to_the_nearest_three_in_units_of_the_spread():
    known = Known([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [10.0, 0.0]])
    spread = np.std([0, 2, 4, 10]) + 1e-3
    # to 0, 2, 4: 1, 1, 3; root mean square over two figures, one of which is 0
    assert known.distance([1.0, 0.0]) == pytest.approx(5 / 3 / spread / 2**0.5)
    # the first to the others: 2, 4, 10
    assert known.among(1.0) == pytest.approx((6 + 8 + 10) / 3 / spread / 2**0.5)


@pytest.mark.parametrize("view", VIEWS)
def test_rain_of_another_kind_lies_farther_away(windows, view):
    look = VIEWS[view]
    known = Known([look(render_rain(w, "drs", n, FINE).lq) for n, w in enumerate(windows[:12])])
    like = [known.distance(look(render_rain(w, "drs", 50 + n, FINE).lq)) for n, w in enumerate(windows[12:])]
    big = RainParams(drops=DropParams(count=(150, 200), radius=(8, 20)))
    unlike = [known.distance(look(render_rain(w, "drd", 50 + n, big).lq)) for n, w in enumerate(windows[12:])]
    assert np.mean(like) < 0.8 * np.mean(unlike)


def test_what_references_do_not_show_is_rejected_unless_they_are_few_and_defects_are_seen(windows, tmp_path):
    pairs = [render_rain(window, "drs", n, FINE) for n, window in enumerate(windows)]
    references = []
    for number, pair in enumerate(pairs[:12]):
        write_png(tmp_path / f"{number}.png", pair.lq[..., ::-1])
        references.append(Reference(str(number), tmp_path / f"{number}.png"))

    def severities(voter, lq, gt):
        candidate = Candidate("x", tmp_path, tmp_path, "drs", "", _lq=lq, _gt=gt)
        return {f.kind: f.severity for f in voter.findings(voter.measure(candidate), "drs")}

    voter, (lq, gt, _) = build(view="texture"), pairs[12]
    voter.setup(references)
    like = severities(voter, lq, gt)
    noisy = lq.astype(np.int16) + np.random.default_rng(0).integers(-90, 90, (128, 128, 1))
    unlike = severities(voter, noisy.clip(0, 255).astype(np.uint8), gt)
    assert like["unlike_texture"] < 1 < unlike["unlike_texture"]
    shifted = severities(voter, lq[:, 6:], np.ascontiguousarray(gt[:, :-6]))
    assert shifted["misaligned"] > 1 > like["misaligned"]
    voter = build()
    for count, judged in ((7, False), (8, True)):
        voter.setup(references[:1] * count)
        assert ("unlike_cues" in severities(voter, lq, gt)) == judged


def test_wrong_keys_are_told():
    for keys, message in (
        ({"view": "colour"}, "view: expected one of cues, texture, got 'colour'"),
        ({"coverage": 0.2}, "coverage: expected a number from 0.5 to 1, got 0.2"),
        ({"coverage": True}, "coverage: expected a number"),
        ({"strictness": 0}, "strictness: expected a number from 0.1 to 10"),
    ):
        with pytest.raises(OptionError, match=message):
            build(**keys)
