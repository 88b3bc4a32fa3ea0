"""A whole comparison: lists the pictures, restores, scores, measures, and writes tables, figure and page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tqdm import tqdm

from unirain_plugin.compare.costs import Cost, measure_costs
from unirain_plugin.compare.evaluate import Checked, Evaluator, Row, check_sample
from unirain_plugin.compare.journal import Journal
from unirain_plugin.compare.network_process import reason
from unirain_plugin.compare.networks import NetworkSpec, spec_of
from unirain_plugin.compare.options import CompareOptions, ModelOptions
from unirain_plugin.compare.results import GT, INPUT, OK, Comparison, ModelRow
from unirain_plugin.compare.samples import Sample, list_samples
from unirain_plugin.compare.summary import SetSummary, summarise
from unirain_plugin.compare.zoom import find_picture
from unirain_plugin.errors import DataError
from unirain_plugin.metrics.scoring import Metric, make_metrics
from unirain_plugin.support.files import check_folder, sole_user

UNTRAINED = "untrained: cost only, no scores"
"""Status of a network that was taken without weights, as asked."""


@dataclass
class Outcome:
    """What a run gave.

    Attributes:
        comparison: Models and results.
        summaries: One for each test set.
        metrics: Those that were computed.
        reference: The model that differences are taken to.
        device: Where the networks ran.
        failures: A line for each thing that went wrong; the exit status is 1 if there is one.
        remarks: What is worth knowing and no failure.
    """

    comparison: Comparison
    summaries: list[SetSummary]
    metrics: list[Metric]
    reference: str
    device: str
    failures: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def directions(self) -> dict[str, bool]:
        """Metric → whether higher is better."""
        return {metric.name: metric.higher_is_better for metric in self.metrics}


def run(options: CompareOptions, bar: bool = True) -> Outcome:
    """Compute what is not finished yet; nothing is written but journal and pictures.

    Args:
        options: The option file.
        bar: Whether to draw progress bars.

    Raises:
        DataError: If a test set cannot be listed, or no metric or no sound picture is left.
        OptionError: If the device, the settings of a network or the name of a picture of the figure are wrong.
        DistillError: If another run works in the output folder, or the disk is full.
    """
    from unirain_plugin.inference.loading import choose_device

    device = choose_device(options.device)
    networks = [m for m in options.models if m.results is None]
    for spec in (spec_of(model, options) for model in networks):
        spec.restore_options().check_device(device)
    check_folder(options.output_folder)
    with sole_user(options.output_folder, "another run is working in this folder; wait for its end."):
        samples = [s for test_set in options.test_sets for s in list_samples(test_set, options.output_folder / "data")]
        metrics, missing = make_metrics(options.metrics, str(device))
        if not metrics:
            raise DataError("none of the metrics can be computed: " + "; ".join(missing.values()))
        with Journal(options.output_folder / "results.jsonl") as journal:
            checked, broken = check_samples(samples, journal, bar)
            _check_figure(options, checked)
            rows, costs = _evaluate(options, checked, metrics, journal, bar)
    outcome = _outcome(options, checked, metrics, rows, costs, str(device))
    outcome.failures[:0] = [*broken, *missing.values()]
    return outcome


def _check_figure(options: CompareOptions, checked: Sequence[Checked]) -> None:
    """Find the figure's pictures and boxes now, not after hours."""
    sizes = {(c.sample.test_set, c.sample.image): c.size for c in checked}
    known = {"/".join(key): key for key in sizes}
    for entry in options.figure.images if options.figure.enabled else ():
        chosen = find_picture(entry, known)
        chosen.box(options.figure.crop, sizes[chosen.test_set, chosen.image])


def check_samples(samples: Sequence[Sample], journal: Journal, bar: bool) -> tuple[list[Checked], list[str]]:
    """The sound test pictures, and a line for each broken one.

    Raises:
        DataError: If none is sound.
    """
    sound, broken = [], []
    for sample in tqdm(samples, desc="checking", unit="picture", disable=not bar, leave=False, ncols=100):
        try:
            sound.append(check_sample(sample, journal))
        except DataError as error:
            broken.append(f"{sample.test_set}: left out for all models: {reason(error)}")
    if not sound:
        raise DataError(f"none of the {len(samples)} test pictures can be used: {broken[0]}")
    return sound, broken


@dataclass
class _Costs:
    found: dict[str, Cost]
    failures: dict[str, str]


def _evaluate(
    options: CompareOptions, checked: Sequence[Checked], metrics: Sequence[Metric], journal: Journal, bar: bool
) -> tuple[list[Row], _Costs]:
    scored = [model for model in options.models if not model.untrained]
    total = (len(scored) + options.include_input) * len(checked)
    rows = []
    with tqdm(total=total, desc="comparing", unit="picture", disable=not bar, ncols=100) as progress:
        evaluator = Evaluator(journal, options.output_folder / "pictures", checked, metrics, progress)
        if options.include_input:
            rows.append(evaluator.input_row())
        for model in options.models:
            progress.set_postfix_str(model.name[-24:])
            rows.append(_row(evaluator, model, options))
    by_name = {row.name: row for row in rows}
    specs = [spec_of(m, options) for m in options.models if m.results is None and by_name[m.name].failure is None]
    if not options.cost.enabled or not specs:
        return rows, _Costs({}, {})
    return rows, _Costs(*measure_costs(specs, options.cost, journal))


def _row(evaluator: Evaluator, model: ModelOptions, options: CompareOptions) -> Row:
    if model.untrained:
        return Row(model.name, remarks=[UNTRAINED])
    return evaluator.finished_row(model) if model.results is not None else evaluator.network_row(_spec(model, options))


def _spec(model: ModelOptions, options: CompareOptions) -> NetworkSpec:
    return replace(spec_of(model, options), threads=None)  # `cost: threads` is for the measurement


def _outcome(
    options: CompareOptions,
    checked: Sequence[Checked],
    metrics: list[Metric],
    rows: Sequence[Row],
    costs: _Costs,
    device: str,
) -> Outcome:
    models = [_model_row(row, costs) for row in rows]
    results = [result for row in rows for result in row.results]
    sets = [test_set.name for test_set in options.test_sets]
    comparison = Comparison(
        options.name, models, sets, results, [metric.name for metric in metrics], _reader(rows, checked)
    )
    reference = options.reference or options.rows[0]
    scored = [row.name for row in rows if row.results]
    directions = {metric.name: metric.higher_is_better for metric in metrics}
    summaries = []
    for name in sets:
        images = {c.sample.image: c.sample.rain_type for c in checked if c.sample.test_set == name}
        if images:
            arguments = results, [row.name for row in rows], name, images, directions, reference, options.bootstrap
            summaries.append(summarise(*arguments))
    failures = [f"{m.name}: {m.status}" for m in models if m.status not in (OK, UNTRAINED)]
    remarks = [f"{row.name}: {text}" for row in rows for text in row.remarks if text != UNTRAINED]
    if not scored:
        remarks.append("no model has results, so there is neither figure nor page")
    return Outcome(comparison, summaries, metrics, reference, device, failures, remarks)


def _model_row(row: Row, costs: _Costs) -> ModelRow:
    cost = costs.found.get(row.name, Cost())
    status = row.status()
    if status == OK and UNTRAINED in row.remarks:
        status = UNTRAINED
    if row.name in costs.failures:
        problem = f"cost: {costs.failures[row.name]}"
        status = problem if status in (OK, UNTRAINED) else f"{status}; {problem}"
    return ModelRow(row.name, status, cost.parameters, cost.multiply_adds, cost.latency_ms, cost.peak_memory_mb)


def _reader(rows: Sequence[Row], checked: Sequence[Checked]) -> Callable[[str, str], dict[str, np.ndarray]]:
    """The function behind :attr:`Comparison.pictures`."""
    samples = {c.key: c.sample for c in checked}

    def pictures(test_set: str, image: str) -> dict[str, np.ndarray]:
        key = test_set, image
        if key not in samples:
            raise DataError(f"there is no test picture '{image}' in the test set '{test_set}'.")
        found = {INPUT: samples[key].lq.picture()}
        for row in rows:
            if row.name != INPUT and key in row.sources:
                found[row.name] = row.sources[key].picture()
        if samples[key].gt is not None:
            found[GT] = samples[key].gt.picture()
        return found

    return pictures
