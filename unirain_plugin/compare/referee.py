"""Under which protocol is a claimed number met? Scores a comparison's results under all of them."""

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, Self

from unirain_plugin.compare.options import BootstrapOptions, CompareOptions
from unirain_plugin.compare.report import GROUP_TITLES, markdown_table
from unirain_plugin.compare.run import run
from unirain_plugin.compare.summary import MEAN, WORST, Outcome, SetSummary
from unirain_plugin.errors import OptionError
from unirain_plugin.metrics.protocols import PROTOCOLS
from unirain_plugin.metrics.psnr_ssim import finite_mean

EVERY = "all images"


class Claim(NamedTuple):
    """A published number as it was given, its value (PSNR in dB above 1, else SSIM), half a unit of its last digit."""

    text: str
    value: float
    tolerance: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a number; OptionError if it can be neither."""
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite() or not 0 < number <= 100:
            raise OptionError(f"--which-protocol: expected a PSNR such as 33.2 (dB) or an SSIM such as 0.9123, found "
                              f"'{text}'.")  # fmt: skip
        return cls(text, float(number), float(Decimal(5).scaleb(number.as_tuple().exponent - 1)))

    @property
    def measure(self) -> str:
        return "psnr" if self.value > 1 else "ssim"

    def is_met(self, value: float) -> bool:
        return abs(value - self.value) <= self.tolerance + 1e-9


def which_protocol(options: CompareOptions, text: str, bar: bool = True) -> tuple[str, Outcome]:
    """Score the finished images (without any: the networks') under every protocol; no file of tables is written.

    ``text``: the claimed PSNR in dB, or SSIM, with the digits that were published (else OptionError). Returns tables
    and verdicts in Markdown, and the outcome with what went wrong.
    """
    claim = Claim.parse(text)
    finished = [model for model in options.models if model.results is not None]
    models = finished or [model for model in options.models if not model.untrained]
    if not models:
        raise OptionError("--which-protocol: no model has images; expected one with `results` (or weights).")
    names = [f"{claim.measure}@{name}" for name in PROTOCOLS]
    nothing = {"cost": replace(options.cost, enabled=False), "figure": replace(options.figure, enabled=False)}
    outcome = run(
        replace(options, models=models, metrics=names, include_input=False, bootstrap=BootstrapOptions(0), **nothing),
        bar,
        write=False,
    )
    parts = [f"Claimed {claim.measure.upper()}: {text}, met from {claim.value - claim.tolerance:.6g} to "
             f"{claim.value + claim.tolerance:.6g}.\n"]  # fmt: skip
    parts += [part for s in outcome.summaries for model in s.values for part in _verdict(outcome, s, model, claim)]
    parts += [f"- {name}: {protocol}" for name, protocol in PROTOCOLS.items()]
    return "\n".join(parts) + "\n", outcome


def _verdict(outcome: Outcome, summary: SetSummary, model: str, claim: Claim) -> Iterator[str]:
    """The table of one model on one test set, the nearest protocol first, and what it says."""
    means = {name: _means(outcome, summary, model, f"{claim.measure}@{name}") for name in PROTOCOLS}
    nearest = {name: min((abs(v - claim.value), g) for g, v in found.items()) for name, found in means.items() if found}
    order = sorted(nearest, key=lambda name: nearest[name][0])
    yield f"### {model} on {summary.test_set}\n"
    if not order:
        yield "No means: an image has no result, or no value.\n"
        return
    digits = 2 if claim.measure == "psnr" else 4
    titles = {group: GROUP_TITLES.get(group, group) for name in order for group in means[name]}
    rows = []
    for name in order:
        shown = {g: f"{value:.{digits}f} ({value - claim.value:+.{digits}f})" for g, value in means[name].items()}
        rows.append([name, *(shown.get(group, "–") for group in titles)])
    yield markdown_table(["protocol", *titles.values()], rows)
    met = [f"{n} ({titles[g]})" for n in order for g, value in means[n].items() if claim.is_met(value)]
    difference, group = nearest[order[0]]
    closest = f"no protocol; nearest is {order[0]} ({titles[group]}), {difference:.{digits}f} away"
    yield f"**{claim.text} is met under {', '.join(met) or closest}.**\n"


def _means(outcome: Outcome, summary: SetSummary, model: str, metric: str) -> dict[str, float]:
    """Group → mean, where there is one; of several rain types also that over all images, which some papers print."""
    values = summary.values[model]
    means = {g: values[g][metric] for g in summary.groups if g != WORST and values[g][metric] is not None}
    if MEAN in means:
        results = [r for r in outcome.comparison.results if (r.model, r.test_set) == (model, summary.test_set)]
        means[EVERY] = finite_mean([r.metrics[metric] for r in results if metric in r.metrics])
    return means
