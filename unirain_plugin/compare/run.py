"""A whole comparison: lists the images, restores, scores, measures, and writes tables, figure and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from tqdm import tqdm

from unirain_plugin.compare.evaluate import Checked, Evaluator, Row, check_sample
from unirain_plugin.compare.figure import find_image
from unirain_plugin.compare.measuring import measure_costs
from unirain_plugin.compare.networks import NetworkSpec, spec_of
from unirain_plugin.compare.options import CompareOptions
from unirain_plugin.compare.report import write_all
from unirain_plugin.compare.samples import Sample, list_samples
from unirain_plugin.compare.summary import GT, INPUT, OK, UNTRAINED, Comparison, ModelRow, Outcome, summarise
from unirain_plugin.data.image_header import limited
from unirain_plugin.errors import DataError, reason
from unirain_plugin.inference.loading import choose_device
from unirain_plugin.metrics.scoring import Metric, make_metrics
from unirain_plugin.support.files import check_folder, is_full, sole_user
from unirain_plugin.support.journal import Journal


def run(options: CompareOptions, bar: bool = True, write: bool = True) -> Outcome:
    """Compute what is not finished yet, and write tables, figure and page, as the command does.

    ``bar``: draw progress bars; ``write``: write files beside restored images and the journal. A DataError if a test
    set cannot be listed, no metric or no sound image is left, another run works in the output folder, or that cannot be
    written; an OptionError if the device, the settings of a network or the name of an image of the figure are wrong.
    """
    device = choose_device(options.device)
    specs = {model.name: spec_of(model, options) for model in options.models if model.results is None}
    for spec in specs.values():
        spec.restoring.check_device(device)
    folder = options.output_folder
    check_folder(folder)
    with (
        limited(options.max_megapixels),
        sole_user(folder, "another run is working in this folder; wait for its end."),
        Journal(folder / "results.jsonl") as journal,
    ):
        samples = [s for test_set in options.test_sets for s in list_samples(test_set, folder / "data")]
        metrics, missing = make_metrics(options.metric_names, str(device), options.protocols[0])
        if not metrics:
            raise DataError("none of the metrics can be computed: " + "; ".join(missing.values()))
        checked, broken = check_samples(samples, journal, bar)
        _check_figure(options, checked)
        rows = _evaluate(options, specs, checked, metrics, journal, bar)
        running = [specs[row.name] for row in rows if row.name in specs and row.failure is None]
        costs = measure_costs(running, options.cost, journal) if options.cost.enabled else ({}, {})
        models = [_model_row(row, costs[0].get(row.name, {}), costs[1].get(row.name)) for row in rows]
        outcome = _outcome(options, checked, metrics, rows, models, str(device))
        outcome.failures[:0] = [*broken, *missing.values()]
        outcome.files = write_all(outcome, options) if write else []
    return outcome


def _check_figure(options: CompareOptions, checked: Sequence[Checked]) -> None:
    """Find the figure's images and boxes now, not after hours."""
    sizes = {c.sample.key: c.size for c in checked}
    known = {"/".join(key): key for key in sizes}
    for entry in options.figure.images if options.figure.enabled else ():
        chosen = find_image(entry, known)
        chosen.box(options.figure.crop, sizes[chosen.test_set, chosen.image])


def check_samples(samples: Sequence[Sample], journal: Journal, bar: bool) -> tuple[list[Checked], list[str]]:
    """The sound test images, and a line for each broken one; DataError if none is sound, or the disk is full."""
    sound, broken = [], []
    for sample in tqdm(samples, desc="checking", unit="image", disable=not bar, leave=False, ncols=100):
        try:
            sound.append(check_sample(sample, journal))
        except DataError as error:
            if is_full(error):
                raise
            broken.append(f"{sample.test_set}: left out for all models: {reason(error)}")
    if not sound:
        raise DataError(f"none of the {len(samples)} test images can be used: {broken[0]}")
    return sound, broken


def _evaluate(
    options: CompareOptions,
    specs: Mapping[str, NetworkSpec],
    checked: Sequence[Checked],
    metrics: Sequence[Metric],
    journal: Journal,
    bar: bool,
) -> list[Row]:
    scored = [model for model in options.models if not model.untrained]
    total = (len(scored) + options.include_input) * len(checked)
    with tqdm(total=total, desc="comparing", unit="image", disable=not bar, ncols=100) as progress:
        evaluator = Evaluator(journal, options.output_folder / "pictures", checked, metrics, progress)
        rows = [evaluator.input_row()] if options.include_input else []
        for model in options.models:
            progress.set_postfix_str(model.name[-24:])
            if model.untrained:
                rows.append(Row(model.name, remarks=[UNTRAINED]))
            elif model.results is not None:
                rows.append(evaluator.finished_row(model))
            else:  # `cost: threads` is for the measurement
                rows.append(evaluator.network_row(replace(specs[model.name], threads=None)))
    return rows


def _outcome(
    options: CompareOptions,
    checked: Sequence[Checked],
    metrics: list[Metric],
    rows: Sequence[Row],
    models: list[ModelRow],
    device: str,
) -> Outcome:
    results = [result for row in rows for result in row.results]
    sets = [test_set.name for test_set in options.test_sets]
    names = [metric.name for metric in metrics]
    comparison = Comparison(options.name, models, sets, results, names, _reader(rows, checked))
    outcome = Outcome(comparison, [], metrics, options.reference or options.rows[0], device)
    every = [row.name for row in rows]
    for name in sets:
        images = {c.sample.image: c.sample.rain_type for c in checked if c.sample.test_set == name}
        if images:
            how = outcome.directions, outcome.reference, options.bootstrap
            outcome.summaries.append(summarise(results, every, name, images, *how))
    outcome.failures = [f"{m.name}: {m.status}" for m in models if m.status not in (OK, UNTRAINED)]
    outcome.remarks = [f"{row.name}: {text}" for row in rows for text in row.remarks if text != UNTRAINED]
    if not results:
        outcome.remarks.append("no model has results, so there is neither figure nor page")
    return outcome


def _model_row(row: Row, cost: Mapping[str, float | None], problem: str | None) -> ModelRow:
    status = row.status()
    if status == OK and UNTRAINED in row.remarks:
        status = UNTRAINED
    if problem is not None:
        status = f"cost: {problem}" if status in (OK, UNTRAINED) else f"{status}; cost: {problem}"
    return ModelRow(row.name, status, **cost)


def _reader(rows: Sequence[Row], checked: Sequence[Checked]) -> Callable[[str, str], dict[str, np.ndarray]]:
    """The function behind :attr:`Comparison.arrays`."""
    samples = {c.sample.key: c.sample for c in checked}

    def arrays(test_set: str, image: str) -> dict[str, np.ndarray]:
        key = test_set, image
        if key not in samples:
            raise DataError(f"there is no test image '{image}' in the test set '{test_set}'.")
        found = {INPUT: samples[key].lq.pixels()}
        for row in rows:
            if row.name != INPUT and key in row.sources:
                found[row.name] = row.sources[key].pixels()
        if samples[key].gt is not None:
            found[GT] = samples[key].gt.pixels()
        return found

    return arrays
