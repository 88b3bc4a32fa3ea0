"""What came out, in words and images: tables, curves, restored images, and the files that hold them."""

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unirain_plugin.compare.figure import Sheet
from unirain_plugin.compare.report import markdown_table
from unirain_plugin.compare.summary import score
from unirain_plugin.distill.records import read_rgb
from unirain_plugin.metrics.complexity import Complexity
from unirain_plugin.metrics.psnr_ssim import finite_mean
from unirain_plugin.study import results
from unirain_plugin.study.grid import CURVE, Outcome
from unirain_plugin.study.options import GridRun, ReproduceOptions, Variant, variants_of
from unirain_plugin.support.files import write_json, write_png, write_whole
from unirain_plugin.support.provenance import provenance

TITLES = {
    "experts": "Which experts: soft, hard or none, encoder-decoder",
    "loss": "How the rain types are weighted in the loss",
    "data": "Which pairs are trained on",
    "networks": "UniRain against networks of the toolbox",
}
_GAP, _HEAD, _FOOT = 4, 20, 18
_INK = (20, 20, 20)


@dataclass(frozen=True, slots=True)
class Row:
    """One variant in the table of a question. ``summary`` is None where no run of it is finished."""

    question: str
    name: str
    cost: Complexity
    summary: results.Summary | None
    verdict: str
    verdict_worst: str


@dataclass(frozen=True)
class Report:
    root: Path  # the output folder
    options: ReproduceOptions  # the option file
    costs: results.Costs  # of the networks
    data: Mapping[str, Any]  # summary of the data, see make_data
    outcomes: Sequence[Outcome]  # of all runs
    # what the folder was begun with: ``hash`` and ``options``, and ``begun_with``: code, versions, machine
    record: Mapping[str, Any]

    def write(self) -> str:
        write_runs(self.root, self.outcomes)
        text = self.markdown()
        write_whole(self.root / "table.md", text)
        write_whole(self.root / "table.csv", self.csv())
        write_json(
            self.root / "results.json",
            {
                "name": self.options.name,
                "option_hash": self.record["hash"],
                "options": self.record["options"],
                "seeds": list(self.options.seeds),
                "workers": self.options.workers,
                "seconds_of_runs": sum(o.result["seconds"] for o in self.outcomes if o.result),
                "begun_with": self.record["begun_with"],
                "written_with": provenance(),
                "multiply_adds": {name: asdict(cost) for name, cost in self.costs.networks.items()},
                "data": self.data,
                "rows": [asdict(row) for row in self.rows],
                "runs": [_run(outcome) for outcome in self.outcomes],
            },
        )
        if self.finished:
            self.draw_curves(self.root / "curves.png")
            for question in self.options.questions:
                image = self.draw_images(question)
                if image is not None:
                    write_png(self.root / f"pictures_{question}.png", image[..., ::-1])
        return text

    @cached_property
    def finished(self) -> dict[Variant, dict[int, Mapping[str, Any]]]:
        """Variant → seed → result of the finished runs."""
        finished: dict[Variant, dict[int, Mapping[str, Any]]] = {}
        for outcome in self.outcomes:
            if outcome.result is not None:
                finished.setdefault(outcome.run.variant, {})[outcome.run.seed] = outcome.result
        return finished

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of all questions; the first of a question is the baseline."""
        rows = []
        for question in self.options.questions:
            baseline: results.Summary | None = None
            for place, (name, variant) in enumerate(variants_of(self.options, question).items()):
                runs = self.finished.get(variant)
                summary = results.summarise(list(runs.values())) if runs else None
                verdicts = ("not run", "not run")
                if place == 0:
                    baseline, verdicts = summary, ("baseline", "baseline")
                elif summary and baseline:
                    pairs = (baseline.psnr, summary.psnr), (baseline.worst, summary.worst)
                    verdicts = tuple(results.verdict(*pair) for pair in pairs)
                rows.append(Row(question, name, self.costs.networks[variant.name], summary, *verdicts))
        return rows

    @cached_property
    def rainy(self) -> dict[str, float]:
        """Rain type or test set → mean PSNR of the held-out rainy images, dB."""
        return {t: scores["psnr"] for t, scores in self.data["rainy"].items()}

    @property
    def rainy_psnr(self) -> float:
        return finite_mean(list(self.rainy.values()))

    def markdown(self) -> str:
        unit = "rain type" if self.options.test_sets is None else "test set"
        parts = [f"## Reproduction in miniature: {self.options.name}", *self._setting()]
        for question in self.options.questions:
            lines = (self._cells(row) for row in self.rows if row.question == question)
            parts.append(_section(TITLES[question], _HEADINGS, lines))
        parts.append(_section(f"Gain over the rainy input by {unit}, dB", ["variant", *self.rainy], self._gains()))
        parts += self._intervals()
        parts += self._use()
        given, kept = Counter(), Counter()
        for kind, counts in ((k, c) for by_kind in self.data["pairs"].values() for k, c in by_kind.items()):
            given[kind] += counts["given"]
            kept[kind] += counts["kept"]
        planted = [(kind, str(count), str(kept[kind])) for kind, count in given.most_common()]
        parts.append(_section("What was planted and what distillation kept", ["pairs", "given", "kept"], planted))
        if failed := [f"- {o.run.name}: {o.error}" for o in self.outcomes if o.status == "failed"]:
            parts.append("### Runs that failed\n\n" + "\n".join(failed))
        return "\n\n".join([*parts, _origin(self.record)]) + "\n"

    def _setting(self) -> Iterator[str]:
        """What was done, and how to read the tables."""
        done = [o.result for o in self.outcomes if o.result]
        size = self.options.data.val_size
        what = f"Held-out images: {size}²"
        if self.options.test_sets is not None:
            images = f"at most {self.options.data.val_pairs} images of each, their middle {size}²"
            what = f"Test sets {', '.join(self.rainy)}: {images}"
        iterations = f", {done[0]['iterations']} iterations each" if done else ""
        yield (
            f"{len(done)} of {len(self.outcomes)} runs, seeds {', '.join(map(str, self.options.seeds))}{iterations}. "
            f"{what}, never seen in training; mean PSNR of the rainy input {self.rainy_psnr:.2f} dB. Multiply-adds at "
            f"{size}², equal within {self.costs.largest:.1%} (allowed: {self.options.tolerance:.0%})."
        )
        yield (
            "Mean ± standard deviation over the seeds, PSNR in dB. `tie`: the difference to the baseline (the first "
            "line) is smaller than the spread of a difference, √(s₁² + s₂²). Over a few seeds the spread itself is "
            "known roughly at best, so `better` and `worse` are hints, not proofs."
        )
        restored = Counter()
        for result in done:
            restored.update(result.get("perfect", {}))
        rainy = {t: scores.get("perfect", 0) for t, scores in self.data["rainy"].items()}
        for what, counts in (("rainy", rainy), ("restored", restored)):
            if found := ", ".join(f"{count} of {rain_type}" for rain_type, count in counts.items() if count):
                yield f"Held-out {what} images that equal the clean one ({found}): their infinite PSNR is in no mean."

    def _cells(self, row: Row) -> tuple[str, ...]:
        start = row.name, f"{row.cost.parameters / 1e3:.1f}", f"{row.cost.multiply_adds / 1e6:.1f}"
        if row.summary is None:
            return (*start, "0", "", "", "", row.verdict, "", row.verdict_worst)
        s = row.summary
        return (
            *start, str(s.psnr.count), s.psnr.text(), _gain(s.psnr.mean, self.rainy_psnr), s.ssim.text(4), row.verdict,
            f"{s.worst.text()} ({s.worst_name})", row.verdict_worst,
        )  # fmt: skip

    def _gains(self) -> Iterator[tuple[str, ...]]:
        """Every variant once; the first line is the input itself."""
        yield ("(PSNR of the rainy input)", *(f"{psnr:.2f}" for psnr in self.rainy.values()))
        seen = set()
        for row in self.rows:
            if row.summary is None or (row.verdict == "baseline" and "baseline" in seen):
                continue
            seen.add(row.verdict)
            spreads = ((row.summary.by_type[t], psnr) for t, psnr in self.rainy.items())
            gains = (_gain(s.mean, r) + ("" if s.deviation is None else f" ± {s.deviation:.2f}") for s, r in spreads)
            yield (row.name, *gains)

    def _intervals(self) -> Iterator[str]:
        """The baseline against each variant, by rain type or test set, where runs hold the figures of their images."""
        for question in self.options.questions:
            variants = variants_of(self.options, question)
            images = {name: [run["images"] for run in self.finished.get(v, {}).values() if "images" in run]
                      for name, v in variants.items()}  # fmt: skip
            (baseline, own), *others = images.items()
            found = {name: results.difference_intervals(own, runs) for name, runs in others if own and runs}
            lines = [
                (name, *(f"{d:+.2f} [{low:+.2f}, {high:+.2f}]" for d, low, high in of_types.values()))
                for name, of_types in found.items()
            ]
            if lines:
                heads = [f"{baseline} minus", *next(iter(found.values()))]
                yield (
                    f"{_section(f'By how much {baseline} is better, dB', heads, lines)}\n\nIn brackets 95 % intervals "
                    "of a bootstrap over seeds and images; over a few seeds they are too narrow."
                )

    def _use(self) -> Iterator[str]:
        """What the experts and the loss weights did, for the questions that are asked and have finished runs."""
        for question, title, lines_of in (
            ("experts", "Share of the most used expert, mean over layers and seeds", results.expert_lines),
            ("loss", "Loss weights at the end, lowest to highest over the seeds", results.weight_lines),
        ):
            variants = variants_of(self.options, question) if question in self.options.questions else {}
            finished = {name: list(self.finished[v].values()) for name, v in variants.items() if v in self.finished}
            if finished:
                heads, *lines = lines_of(finished)
                yield _section(title, heads, lines)

    def csv(self) -> str:
        """The tables as CSV, figures in full and a column for each rain type."""
        file = io.StringIO()
        head = ["question", "variant", "parameters", "multiply_adds", "seeds", "psnr", "psnr_sd", "ssim", "ssim_sd",
                "worst_psnr", "worst_psnr_sd", "worst_type", "verdict", "verdict_worst"]  # fmt: skip
        head += [*(f"psnr_{t}" for t in self.rainy), *(f"psnr_{t}_sd" for t in self.rainy)]
        writer = csv.DictWriter(file, head, restval="", lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            cells = {"question": row.question, "variant": row.name, **asdict(row.cost), "seeds": 0}
            if (s := row.summary) is not None:
                spreads = {"psnr": s.psnr, "ssim": s.ssim, "worst_psnr": s.worst}
                spreads |= {f"psnr_{t}": s.by_type[t] for t in self.rainy}
                cells |= {"seeds": s.psnr.count, "worst_type": s.worst_name}
                cells |= {name: spread.mean for name, spread in spreads.items()}
                cells |= {f"{name}_sd": spread.deviation for name, spread in spreads.items()}
            writer.writerow(cells | {"verdict": row.verdict, "verdict_worst": row.verdict_worst})
        return file.getvalue()

    def draw_curves(self, path: Path) -> None:
        """A panel for each question: PSNR on the held-out images against iterations, mean ± deviation over seeds."""
        from matplotlib.figure import Figure  # it draws without a screen

        columns = min(2, len(self.options.questions))
        lines = -(-len(self.options.questions) // columns)
        figure = Figure(figsize=(5 * columns, 3.6 * lines), dpi=90, layout="constrained")
        panels = np.atleast_1d(figure.subplots(lines, columns)).ravel()
        for unused in panels[len(self.options.questions) :]:
            unused.set_visible(False)
        for axes, question in zip(panels, self.options.questions, strict=False):
            for name, variant in variants_of(self.options, question).items():
                curves = [read_curve(self._folder(variant, seed) / CURVE) for seed in self.finished.get(variant, ())]
                iterations = sorted(set.intersection(*map(set, curves))) if curves else []
                spreads = [results.spread([curve[i] for curve in curves]) for i in iterations]
                means = np.array([s.mean for s in spreads])
                around = np.array([s.deviation or 0.0 for s in spreads])
                (line,) = axes.plot(iterations, means, marker=".", label=name)
                axes.fill_between(iterations, means - around, means + around, color=line.get_color(), alpha=0.15)
            axes.axhline(self.rainy_psnr, color="grey", linestyle="--", linewidth=0.8)
            axes.set_title(TITLES[question], fontsize=9)
            axes.set(xlabel="iteration", ylabel="mean PSNR on held-out images, dB")
            axes.legend(fontsize=7)
        figure.savefig(path)

    def draw_images(self, question: str) -> np.ndarray | None:
        """A row for each rain type: rainy, restored by each variant (first finished seed), clean, with PSNR in dB."""
        folders = {}
        for name, variant in variants_of(self.options, question).items():
            seed = next((seed for seed in self.options.seeds if seed in self.finished.get(variant, {})), None)
            if seed is not None:
                folders[name] = self._folder(variant, seed) / "pictures"
        if not folders:
            return None
        first = next(iter(folders.values()))
        rows = []
        for rain_type in self.rainy:
            if (first / f"{rain_type}_clean.png").is_file():
                images = {"rainy": read_rgb(first / f"{rain_type}_rainy.png")}
                images |= {name: read_rgb(folder / f"{rain_type}_restored.png") for name, folder in folders.items()}
                rows.append((rain_type, images, read_rgb(first / f"{rain_type}_clean.png")))
        return _draw_rows(rows)

    def _folder(self, variant: Variant, seed: int) -> Path:
        return self.root / "experiments" / GridRun(variant, seed).name


def write_runs(root: Path, outcomes: Sequence[Outcome]) -> None:
    """Write ``runs.jsonl``: a line a run that ended, with its variant, seed, status, figures and seconds."""
    lines = [json.dumps(_run(outcome), ensure_ascii=False) for outcome in outcomes if outcome.status != "missing"]
    write_whole(root / "runs.jsonl", "".join(line + "\n" for line in lines))


def _run(outcome: Outcome) -> dict[str, Any]:
    run = outcome.run
    entry = {"name": run.name, **asdict(run.variant), "seed": run.seed, "status": outcome.status}
    if outcome.error:
        entry["error"] = outcome.error
    return entry | {key: value for key, value in (outcome.result or {}).items() if key not in ("routing", "images")}


def read_curve(path: Path) -> dict[int, float]:
    """Iteration → mean PSNR over the types (dB). Of an iteration validated twice, after a resume, the last counts."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {line["iteration"]: results.mean_of_types(line) for line in lines}


_HEADINGS = (
    "variant", "params k", "multiply-adds M", "seeds", "mean PSNR", "gain", "SSIM", "against baseline",
    "lowest PSNR", "against baseline",
)  # fmt: skip


def _gain(after: float, before: float) -> str:
    """The gain in dB; ``∞`` where all images of one of them equal the clean ones."""
    return f"{after - before:+.2f}" if math.isfinite(after - before) else "∞"


def _section(title: str, heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return f"### {title}\n\n{markdown_table(heads, lines, right=True)}".rstrip("\n")


def _origin(record: Mapping[str, Any]) -> str:
    origin = record["begun_with"]
    versions = origin["versions"]
    return (
        f"Begun with commit {origin['commit'] or 'unknown'}"
        f"{' and changes not committed' if origin['changed_since_commit'] else ''}, options {record['hash']}, "
        f"unirain_plugin {versions['unirain_plugin']}, torch {versions['torch']}, basicsr {versions['basicsr']}, "
        f"Python {versions['python']}, on {origin['gpu'] or origin['cpu']}; {origin['written']}."
    )


def _draw_rows(rows: Sequence[tuple[str, Mapping[str, np.ndarray], np.ndarray]]) -> np.ndarray:
    """Draw (rain type, title → image, clean image) below one another: (H, W, 3) RGB."""
    height, width = rows[0][2].shape[:2]
    titles = [*rows[0][1], "clean"]
    sheet = Sheet(_GAP + len(titles) * (width + _GAP), _HEAD + len(rows) * (height + _FOOT))
    for column, title in enumerate(titles):
        sheet.text((_GAP + column * (width + _GAP), 4), title, _INK, 11)
    for number, (rain_type, images, clean) in enumerate(rows):
        top = _HEAD + number * (height + _FOOT)
        for column, image in enumerate([*images.values(), clean]):
            left = _GAP + column * (width + _GAP)
            sheet.put((left, top), image)
            caption = rain_type if image is clean else f"{score(image, clean).psnr:.2f} dB"
            sheet.text((left, top + height + 2), caption, _INK, 11)
    return np.asarray(sheet.canvas)
