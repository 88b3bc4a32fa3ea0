"""The three voters without weights: each looks for some of the findings among one set of figures a pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from unirain_plugin.distill.records import Candidate, Reference, Vote, VoteTask
from unirain_plugin.distill.registry import VOTER
from unirain_plugin.distill.voters import findings as found
from unirain_plugin.distill.voters.base import Voter
from unirain_plugin.distill.voters.clean_image import lines, sharpness
from unirain_plugin.distill.voters.findings import Check, Figures, Finding, look, rain_in_clean
from unirain_plugin.distill.voters.frame import MIN_SIDE, make_frame
from unirain_plugin.distill.voters.rain_layer import rain_layer
from unirain_plugin.distill.voters.registration import registration
from unirain_plugin.distill.voters.tones import tones
from unirain_plugin.distill.voters.veil import HAZE, VEILED, veiled
from unirain_plugin.support.spec import between

VERSION = 5  # part of the default voters' fingerprints: raise it whenever a figure or a limit changes


def pair_evidence(candidate: Candidate) -> dict[str, float]:
    """Figures of a candidate, computed at the first call; empty for images too small to judge."""
    return candidate.derived("pair_evidence", _measure)


def _measure(candidate: Candidate) -> dict[str, float]:
    gt, veil = veiled(candidate.lq, candidate.gt) if candidate.rain_type in VEILED else (candidate.gt, 0.0)
    frame = make_frame(candidate.lq, gt)
    if frame is None:
        return {}
    tone_figures, table = tones(frame)
    of_rain, of_clean = rain_layer(frame, table), {**sharpness(frame), **lines(candidate.lq, gt)}
    return {**registration(frame), **tone_figures, **of_rain, **of_clean, "veil": veil}


@dataclass(eq=False)
class DefaultVoter(Voter):
    """Base of the voters without weights. A subclass lists its findings, from the most specific to the most general.

    Clear defects show from more than one side, so each is looked at by two of the three voters, and the paper's
    majority rule alone rejects the pair; a doubt of one voter does not.
    """

    version = VERSION
    praise: ClassVar[str]
    checks: ClassVar[tuple[Check, ...]]

    name: str | None = None  # unique name within the pipeline
    strictness: Annotated[float, between(0.1, 10)] = 1.0  # above 1 all limits are tighter, below 1 wider

    def __post_init__(self) -> None:
        super().__post_init__()
        super().__init__(self.name)
        self.strictness = float(self.strictness)

    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        """What may speak against a pair, each with its severity; haze has no edges, left over or hard."""
        ignored = (found.leftover, found.flat_rain) if rain_type == HAZE else ()
        return [check(figures) for check in self.checks if check not in ignored]

    def measure(self, candidate: Candidate) -> Mapping[str, Any]:
        return pair_evidence(candidate)

    def vote(self, tasks: Sequence[VoteTask]) -> list[Vote]:
        """Judge each pair by its figures; no image is read if they were measured before."""
        return [self._vote(task) for task in tasks]

    def _vote(self, task: VoteTask) -> Vote:
        figures = task.measurements.get(self.name) or self.measure(task.candidate)
        if not figures:
            return Vote(self.name, None, f"too small to judge: a side has less than {MIN_SIDE} pixels")
        findings = self.findings(figures, task.candidate.rain_type)
        return found.judge(self.name, findings, self.strictness, self.praise)


@VOTER.register()
class Realism(DefaultVoter):
    """Rain brightens (streaks) or is out of focus (drops), has soft edges and no colour of its own, leaves the scene's
    edges and the tone elsewhere alone, and is no stronger than the references show (:mod:`.findings`).
    """

    registry_name = "realism"
    praise = "the difference looks like rain, within the range of the references"
    checks = (
        found.identical,
        found.wrong_scene,
        found.misaligned,
        found.exposure,
        found.colour,
        found.noise_apart,
        found.flat_rain,
    )

    _ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}  # of each own references after `setup`

    def measure(self, candidate: Candidate) -> Mapping[str, Any]:
        figures = pair_evidence(candidate)
        return {**figures, **look(candidate.lq)} if figures else {}

    def measure_reference(self, reference: Reference) -> Mapping[str, Any]:
        return look(reference.image)

    def setup(self, references: Sequence[Reference]) -> None:
        looks = (r.measurements.get(self.name) or self.measure_reference(r) for r in references)
        self._ranges = found.learn_ranges(list(looks))

    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        own = super().findings(figures, rain_type)
        return [*own, rain_in_clean(figures, rain_type), *found.outside(self._ranges, figures)]


@VOTER.register()
class PairConsistency(DefaultVoter):
    """Alignment, structure, tone, colour, detail, noise: what differs between the images where there is no rain."""

    registry_name = "pair_consistency"
    praise = "the images agree where there is no rain"
    checks = (
        found.identical,
        found.wrong_scene,
        found.framed,
        found.interlaced,
        found.misaligned,
        found.blocks_apart,
        found.exposure,
        found.colour,
        found.noise_apart,
        found.blurred,
        found.leftover,
        found.flat_rain,
        found.flat,
    )


@VOTER.register()
class GtQuality(DefaultVoter):
    """Content, compression blocks, noise, blur, and rain left in the clean image; the rainy one is the witness.

    NIQE, which the toolbox has, is not used: it takes 100 ms and more an image, fails below 192 pixels, and its
    model of natural images calls clean night scenes bad.
    """

    registry_name = "gt_quality"
    praise = "the clean image is sharp and free of noise, compression blocks and rain"
    checks = (found.flat, found.framed, found.interlaced, found.blocky, found.noisy, found.blurred, found.leftover)

    def findings(self, figures: Figures, rain_type: str) -> list[Finding]:
        return [*super().findings(figures, rain_type), rain_in_clean(figures, rain_type)]
