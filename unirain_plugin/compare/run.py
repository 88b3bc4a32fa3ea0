"""A whole comparison: lists the images, restores, scores, measures, and writes tables, figure and page."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from unirain_plugin.compare.figure import find_image
from unirain_plugin.compare.networks import NetworkError, NetworkProcess, NetworkSpec, measure_costs, specs_of
from unirain_plugin.compare.options import GT, INPUT, CompareOptions, ModelOptions
from unirain_plugin.compare.report import write_all
from unirain_plugin.compare.samples import ImageKey, Sample, Source, decode, list_samples, match_finished, some
from unirain_plugin.compare.summary import OK, UNTRAINED, Comparison, ImageResult, ModelRow, Outcome, summarise
from unirain_plugin.data.image_header import check_pixels, limited
from unirain_plugin.data.images import CONVERSIONS, decode_strictly
from unirain_plugin.errors import DataError, UniRainError, reason
from unirain_plugin.inference.loading import choose_device
from unirain_plugin.metrics.scoring import Metric, make_metrics
from unirain_plugin.support.files import canonical_hash, check_folder, is_full, safe_path, sole_user
from unirain_plugin.support.journal import Journal

_LISTED = 3


class Checked(NamedTuple):
    """A test image whose files are there and can be decoded: height and width, SHA-256 of both ("" without ``gt``)."""

    sample: Sample
    size: tuple[int, int]
    lq: str
    gt: str


@dataclass
class Row:
    name: str
    results: list[ImageResult] = field(default_factory=list)  # of the images that were finished
    sources: dict[ImageKey, Source] = field(default_factory=dict)  # test image → the file with the model's image
    failures: dict[ImageKey, str] = field(default_factory=dict)  # test image → why it has no result
    # metric → why it failed on an image that has a result, with the images
    unscored: dict[str, list[str]] = field(default_factory=dict)
    failure: str | None = None  # why there are no results at all
    remarks: list[str] = field(default_factory=list)  # what is odd but no failure

    def status(self, cost_problem: str | None = None) -> str:
        """``ok``, or what went wrong, with the measurement of its cost, too."""
        wrong = [self._what_is_missing(), cost_problem and f"cost: {cost_problem}"]
        return "; ".join(filter(None, wrong)) or (UNTRAINED if UNTRAINED in self.remarks else OK)

    def _what_is_missing(self) -> str:
        if self.failure is not None:
            return self.failure
        if not self.failures:
            return "; ".join(f"{len(texts)} of {len(self.results)} images have no value: {texts[0]}"
                             for texts in self.unscored.values())  # fmt: skip
        total = len(self.failures) + len(self.results)
        by_reason: dict[str, list[str]] = {}
        for key, text in self.failures.items():
            by_reason.setdefault(text.rstrip("."), []).append("/".join(key).replace("\n", " "))
        listed = [f"{some(names)}: {text}" for text, names in list(by_reason.items())[:_LISTED]]
        more = "; …" if len(by_reason) > _LISTED else ""
        return f"{len(self.failures)} of {total} images have no result: {'; '.join(listed)}{more}"


def check_sample(sample: Sample, journal: Journal) -> Checked:
    """Look at a test image's files (else DataError); what was sound before, byte for byte, is not decoded again."""
    files = [(source, source.read()) for source in (sample.lq, sample.gt) if source is not None]
    digests = [hashlib.sha256(data).hexdigest() for _, data in files] + [""] * (sample.gt is None)
    key = ("sound", *sample.key)
    known = journal.get(*key)
    if known is not None and [known["lq"], known["gt"]] == digests:
        check_pixels(*known["size"], str(sample.lq))  # the limit may be another today
        return Checked(sample, tuple(known["size"]), *digests)
    images = [decode_strictly(data, str(source), CONVERSIONS) for source, data in files]
    size, *others = [(image.height, image.width) for image in images]
    if others not in ([], [size]):
        raise DataError(f"{sample.lq} is {size[0]}×{size[1]} (height × width), but its clean image {sample.gt} "
                        f"is {others[0][0]}×{others[0][1]}.")  # fmt: skip
    journal.add(key, {"lq": digests[0], "gt": digests[1], "size": list(size)})
    return Checked(sample, size, *digests)


class Evaluator:
    """Scores models on test images, and remembers in a journal what is finished.

    Restored images go to ``{restored}/{model}/{test set}/{image}.png``; the bar gets a step for each model and image.
    """

    def __init__(
        self, journal: Journal, restored: Path, samples: Sequence[Checked], metrics: Sequence[Metric], bar: tqdm
    ) -> None:
        self.journal, self.restored, self.samples, self.metrics, self.bar = journal, restored, samples, metrics, bar

    def rows(self, options: CompareOptions, specs: Mapping[str, NetworkSpec]) -> list[Row]:
        rows = []
        if options.include_input:
            rows.append(Row(INPUT))
            for checked in self.samples:
                self._finish(rows[0], checked, checked.sample.lq, checked.lq)
        for model in options.models:
            self.bar.set_postfix_str(model.name[-24:])
            if model.untrained:
                rows.append(Row(model.name, remarks=[UNTRAINED]))
            elif model.results is not None:
                rows.append(self.finished_row(model))
            else:  # `cost: threads` is for the measurement
                rows.append(self.network_row(replace(specs[model.name], threads=None)))
        return rows

    def finished_row(self, model: ModelOptions) -> Row:
        row = Row(model.name)
        try:
            found = match_finished(model, [checked.sample for checked in self.samples])
        except UniRainError as error:
            row.failure = reason(error)
            self.bar.update(len(self.samples))
            return row
        if found.others and found.problems:
            row.remarks.append(f"files that fit no test image ({len(found.others)}): {some(found.others)}")
        for checked in self.samples:
            key = checked.sample.key
            try:
                if key in found.problems:
                    raise DataError(found.problems[key])
                self._finish(row, checked, found.sources[key], found.sources[key].digest())
            except DataError as error:
                self._fail(row, checked, error)
        return row

    def network_row(self, spec: NetworkSpec) -> Row:
        """A network: restores what is not there yet in a process of its own."""
        row = Row(spec.options.name)
        try:
            fingerprint = spec.fingerprint()
            todo = [c for c in self.samples if not self._take_over(row, c, canonical_hash([fingerprint, c.lq]))]
            if todo:
                self._restore(row, spec, fingerprint, todo)
        except (UniRainError, OSError) as error:
            if is_full(error):
                raise
            row.failure = reason(error)
            self.bar.update(len(self.samples) - len(row.results) - len(row.failures))
        order = {checked.sample.key: index for index, checked in enumerate(self.samples)}
        row.results.sort(key=lambda result: order[result.test_set, result.image])
        return row

    def _take_over(self, row: Row, checked: Checked, image_key: str) -> bool:
        """Use the restored image of an earlier run, if it is that of this network and unharmed."""
        record = self.journal.get("result", row.name, *checked.sample.key)
        target = self._target(row.name, checked)
        if record is None or record.get("picture") != image_key or not target.is_file():
            return False
        if hashlib.sha256(target.read_bytes()).hexdigest() != record.get("file"):
            return False
        self._finish(row, checked, Source(str(target)), image_key)
        return True

    def _restore(self, row: Row, spec: NetworkSpec, fingerprint: str, todo: Sequence[Checked]) -> None:
        with NetworkProcess(spec) as process:
            remark = process.receive()
            row.remarks += [remark] if remark else []
            for checked, failure in self._in_turn(process, row.name, todo):
                try:
                    if failure is not None:
                        raise failure
                    key = canonical_hash([fingerprint, checked.lq])
                    self._finish(row, checked, Source(str(self._target(row.name, checked))), key)
                except (DataError, NetworkError) as error:
                    self._fail(row, checked, error)

    def _in_turn(
        self, process: NetworkProcess, name: str, todo: Sequence[Checked]
    ) -> Iterator[tuple[Checked, NetworkError | None]]:
        """Restore one after the other; while the caller scores an image, the next one is being restored."""
        process.send("restore", todo[0].sample.lq, self._target(name, todo[0]))
        for checked, following in zip(todo, [*todo[1:], None], strict=True):
            failure = None
            try:
                process.receive()
            except NetworkError as error:
                failure = error
            if following is not None:
                process.send("restore", following.sample.lq, self._target(name, following))
            yield checked, failure

    def _finish(self, row: Row, checked: Checked, source: Source, image_key: str) -> None:
        """Score what is not scored yet, write it down, and add the result to the row."""
        key = ("result", row.name, *checked.sample.key)
        record = self.journal.get(*key) or {}
        same = record.get("picture") == image_key and record.get("gt") == checked.gt
        scores: dict[str, Any] = dict(record["metrics"]) if same else {}
        wanted = [metric for metric in self.metrics if metric.key not in scores]
        if wanted or not same:
            data = source.read()
            image = decode(data, str(source))
            if image.shape[:2] != checked.size:
                raise DataError(f"{source} is {image.shape[0]}×{image.shape[1]} (height × width), but the test image "
                                f"{checked.sample.lq} is {checked.size[0]}×{checked.size[1]}.")  # fmt: skip
            needs_gt = any(metric.needs_gt for metric in wanted) and checked.sample.gt is not None
            target = checked.sample.gt.pixels() if needs_gt else None
            for metric in wanted:
                try:
                    scores[metric.key] = metric(image, target)
                except DataError as error:
                    row.unscored.setdefault(metric.name, []).append(reason(error))
            file = hashlib.sha256(data).hexdigest()
            self.journal.add(key, {"picture": image_key, "gt": checked.gt, "file": file, "metrics": scores})
        found = {m.name: scores.get(m.key, math.nan) for m in self.metrics}  # what failed is tried anew next time
        values = {name: value for name, value in found.items() if value is not None}
        row.results.append(ImageResult(row.name, *checked.sample.key, checked.sample.rain_type, values))
        row.sources[checked.sample.key] = source
        self.bar.update()

    def _fail(self, row: Row, checked: Checked, error: UniRainError) -> None:
        """Note a failure; one for want of room on the disk would meet every other image, too."""
        if is_full(error):
            raise error
        row.failures[checked.sample.key] = reason(error)
        self.bar.update()

    def _target(self, name: str, checked: Checked) -> Path:
        return self.restored / f"{safe_path('/'.join((name, *checked.sample.key)))}.png"


def run(options: CompareOptions, bar: bool = True, write: bool = True) -> Outcome:
    """Compute what is not finished yet, and write tables, figure and page, as the command does.

    ``bar``: draw progress bars; ``write``: write files beside restored images and the journal. A DataError if a test
    set cannot be listed, no metric or no sound image is left, another run works in the output folder, or that cannot be
    written; an OptionError if the device, the settings of a network or the name of an image of the figure are wrong.
    """
    specs, device = specs_of(options), choose_device(options.device)
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
        total = (sum(not model.untrained for model in options.models) + options.include_input) * len(checked)
        with tqdm(total=total, desc="comparing", unit="image", disable=not bar, ncols=100) as progress:
            rows = Evaluator(journal, folder / "pictures", checked, metrics, progress).rows(options, specs)
        running = [specs[row.name] for row in rows if row.name in specs and row.failure is None]
        costs, problems = measure_costs(running, options.cost, journal) if options.cost.enabled else ({}, {})
        models = [ModelRow(row.name, row.status(problems.get(row.name)), **costs.get(row.name, {})) for row in rows]
        results = [result for row in rows for result in row.results]
        sets, names = [test_set.name for test_set in options.test_sets], [metric.name for metric in metrics]
        comparison = Comparison(options.name, models, sets, results, names, _reader(rows, checked))
        outcome = Outcome(comparison, [], metrics, options.reference or options.rows[0], str(device))
        for name in sets:
            images = {c.sample.image: c.sample.rain_type for c in checked if c.sample.test_set == name}
            if images:
                how = outcome.directions, outcome.reference, options.bootstrap
                outcome.summaries.append(summarise(results, [row.name for row in rows], name, images, *how))
        outcome.failures = [*broken, *missing.values()]
        outcome.failures += [f"{m.name}: {m.status}" for m in models if m.status not in (OK, UNTRAINED)]
        outcome.remarks = [f"{row.name}: {text}" for row in rows for text in row.remarks if text != UNTRAINED]
        if not results:
            outcome.remarks.append("no model has results, so there is neither figure nor page")
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
