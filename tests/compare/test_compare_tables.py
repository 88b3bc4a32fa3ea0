"""Tables, letter by letter."""

import csv
import io
import json
import math
from dataclasses import replace

import pytest

from unirain_plugin.compare import report as tables
from unirain_plugin.compare.options import BootstrapOptions, CostOptions
from unirain_plugin.compare.report import _plain
from unirain_plugin.compare.summary import ImageResult, Interval, ModelRow, SetSummary

METRICS = {"psnr": True, "lpips": False}
GROUPS = ["drs", "nrd", "mean", "worst"]


def summary(name="Rain_1", **values):
    table = {
        model: {group: dict(zip(METRICS, value, strict=True)) for group, value in zip(GROUPS, column, strict=True)}
        for model, column in values.items()
    }
    interval = {"ours": {"psnr": Interval(1.5, 1.25, 1.75), "lpips": Interval(-0.01, -0.03, 0.01)}}
    return SetSummary(name, GROUPS, {"drs": 3, "nrd": 2, "mean": 5, "worst": 5}, table, interval)


VALUES = {
    "input": [(40.0, 0.01)] * 4,
    "ours": [(30.126, 0.2), (25.0, 0.3), (27.563, 0.25), (25.0, 0.3)],
    "other|x": [(29.0, 0.1), (25.001, None), (27.0, None), (25.0, None)],
}


def test_markdown_marks_best_and_second_of_the_contestants():
    text = tables.markdown_set(summary(**VALUES), list(VALUES), METRICS)
    assert text.splitlines() == [
        "### Rain_1",
        "",
        "PSNR ↑ / LPIPS ↓; number of images in brackets; – where a model lacks an image or a metric a value.",
        "",
        "| model | DRS (3) | NRD (2) | average (5) | worst |",
        "| --- | --- | --- | --- | --- |",
        "| input | 40.00 / 0.0100 | 40.00 / 0.0100 | 40.00 / 0.0100 | 40.00 / 0.0100 |",
        "| ours | **30.13** / <u>0.2000</u> | **25.00** / 0.3000 | **27.56** / 0.2500 | **25.00** / 0.3000 |",
        "| other\\|x | <u>29.00</u> / **0.1000** | **25.00** / – | <u>27.00</u> / – | **25.00** / – |",
    ]


def test_what_the_means_leave_out_is_told_under_every_table():
    rule = "Means leave out values that are infinite (PSNR of an image equal to the clean one) or missing: "
    note = f"{rule}ours: PSNR of 2 of 3 images of DRS; ours: LPIPS of 1 of 2 images of NRD."
    perfect = replace(summary(**VALUES), left_out={"ours": {"drs": {"psnr": 2}, "nrd": {"lpips": 1}}})
    assert tables.markdown_set(perfect, list(VALUES), METRICS).splitlines()[2].endswith(f"a value. {note}")
    assert f"second best underlined. {note}}}" in tables.latex_set(perfect, ["ours"], METRICS)
    assert tables.latex_set(perfect, ["other|x"], METRICS).count("Means leave out") == 0
    intervals = tables.markdown_intervals(perfect, "input", METRICS, BootstrapOptions(100))
    assert "Over the images that have a finite value of both." in intervals
    text = tables.markdown_overview([perfect, summary("B", **VALUES)], ["ours"], {"psnr": True})
    assert f"of each test set. {rule}ours: PSNR of 2 of 3 images of Rain_1, DRS.\n" in text


def test_latex_has_the_papers_groups_of_columns():
    text = tables.latex_set(summary("Rain_1\\", **VALUES), ["ours", "other|x"], METRICS)
    assert r"Method & \multicolumn{2}{c}{DRS} & \multicolumn{2}{c}{NRD} & \multicolumn{2}{c}{average}" in text
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-5} \cmidrule(lr){6-7} \cmidrule(lr){8-9}" in text
    assert r"\begin{tabular}{lcccccccc}" in text and r"\caption{Rain\_1\textbackslash{}." in text
    assert r"ours & \textbf{30.13} & \underline{0.2000} & \textbf{25.00} & 0.3000" in text
    assert r"other|x & \underline{29.00} & \textbf{0.1000} & \textbf{25.00} & --" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(row.count("&") == 8 for row in rows[1:]) and len(rows) == 4


def test_many_metrics_are_spread_over_tables_and_intervals():
    names = ["psnr", "ssim", "psnr_y", "ssim_y", "niqe"]
    assert [list(part) for part in tables.split_metrics(dict.fromkeys(names, True))] == [names[:2], names[2:]]
    assert len(tables.split_metrics(dict.fromkeys(names[:3], True))) == 1
    text = tables.markdown_intervals(summary(**VALUES), "input", METRICS, BootstrapOptions(100, 0.9, 5))
    assert "Difference to input" in text and "90% interval" in text and "100 samples, seed 5" in text
    assert "fewer than 10 images" in text
    assert text.splitlines()[-1] == "| ours | **+1.50 [+1.25, +1.75]** | -0.0100 [-0.0300, +0.0100] |"


OURS = ["ours", "other|x"]


@pytest.mark.parametrize(
    ("second", "metrics", "lines"),
    [
        (
            {model: [(value + 2, None) for value, _ in column] for model, column in VALUES.items()},
            {"psnr": True},
            ["| ours | **27.56** | **29.56** | **28.56** |",
             "| other\\|x | <u>27.00</u> | <u>29.00</u> | <u>28.00</u> |"],
        ),
        (
            dict.fromkeys(OURS, [(None, 0.5)] * 4),
            METRICS,
            ["| ours | **27.56** / 0.2500 | – / **0.5000** | **27.56** / 0.3750 |",
             "| other\\|x | <u>27.00</u> / – | – / **0.5000** | <u>27.00</u> / – |"],
        ),
        (dict.fromkeys(OURS, [(math.inf, 0.0)] * 4), {"psnr": True}, ["| ours | **27.56** | **∞** | **27.56** |"]),
    ],
    ids=["average", "where there are values", "of the finite means"],
)  # fmt: skip
def test_overview_averages_over_test_sets(second, metrics, lines):
    text = tables.markdown_overview([summary(**VALUES), summary("B", **second)], OURS, metrics)
    assert set(lines) <= set(text.splitlines())


def test_costs_state_the_convention():
    rows = [ModelRow("net", "ok", 24_400_000, 126_500_000_000, 12.34, 56.7), ModelRow("folder", "2 | missing")]
    text = tables.markdown_costs(rows, CostOptions(), "cpu")
    assert "| net | 24.40 | 126.5 | 12.3 | 56.7 | ok |" in text
    assert "| folder | – | – | – | – | 2 \\| missing |" in text
    assert "it is half of the floating-point operations" in text and "on cpu" in text
    assert r"net & 24.40 & 126.5 & 12.3 & 56.7 \\" in tables.latex_costs(rows, CostOptions())
    assert "folder" not in tables.latex_costs(rows, CostOptions())
    text = tables.markdown_costs([ModelRow("a", "ok"), ModelRow("b", "gone")], CostOptions(), "cpu")
    assert text.splitlines() == ["| model | status |", "| --- | --- |", "| a | ok |", "| b | gone |"]


def test_metrics_without_any_value_are_left_out_and_numbers():
    values = {model: [(None, 0.5)] * 4 for model in ("ours", "other")}
    text = tables.markdown_set(summary(**values), ["ours", "other"], METRICS)
    assert "PSNR" not in text and "| ours | **0.5000** | **0.5000** | **0.5000** | **0.5000** |" in text
    assert "PSNR" not in tables.latex_set(summary(**values), ["ours"], METRICS)
    nothing = {model: [(None, None)] * 4 for model in ("ours", "other")}
    assert tables.markdown_set(summary(**nothing), ["ours", "other"], METRICS) == "### Rain_1\n"
    assert [tables.number(value, "ssim") for value in (math.inf, None, 0.99996)] == ["∞", "–", "1.0000"]


def test_csv_page_and_json_hold_full_precision():
    results = [
        ImageResult("m, x", "s", "drs/ä", "drs", {"psnr": 1 / 3}),
        ImageResult("m", "s", "b", None, {"psnr": math.inf, "lpips": 0.5}),
    ]
    rows = list(csv.DictReader(io.StringIO(tables.results_csv(results, list(METRICS)))))
    assert float(rows[0]["psnr"]) == 1 / 3 and rows[0]["lpips"] == "" and rows[0]["model"] == "m, x"
    assert rows[1]["rain_type"] == "" and float(rows[1]["psnr"]) == math.inf
    models = [ModelRow("ours", "ok", 2_000_000, 3_000_000_000, 4.0, 5.0)]
    (row,) = tables.page_rows(models, [summary(**VALUES)], METRICS)
    assert next(iter(row.items())) == ("model", "ours")
    assert row["average PSNR ↑"] == 27.563 and row["worst LPIPS ↓"] == 0.3 and row["parameters, M"] == 2
    content = {"a": math.inf, "b": [math.nan, 1.5], "c": summary(**VALUES)}
    text = json.dumps(_plain(content), allow_nan=False)
    assert json.loads(text)["a"] == "inf" and json.loads(text)["c"]["intervals"]["ours"]["psnr"]["low"] == 1.25


def test_captions_name_the_protocols_of_their_metrics():
    names = {"psnr": True, "psnr@y-matlab": True, "psnr_y": True, "lpips": False}
    values = {"ours": {group: dict.fromkeys(names, 0.5) for group in GROUPS}}
    found = SetSummary("S", GROUPS, dict.fromkeys(GROUPS, 2), values, {})
    text = tables.markdown_set(found, ["ours"], names, "raindrop")
    first, second = (line for line in text.splitlines() if "↑" in line)
    assert "PSNR: protocol raindrop, sides cut to multiples of 4" in first and "flat window of 7 × 7" in first
    assert "PSNR@y-matlab: protocol y-matlab, no border cropped; PSNR and SSIM on MATLAB's Y (16 to 235), ro" in first
    assert "PSNR-Y: protocol y-basicsr, " in second and "raindrop" not in second
    assert "protocol raindrop, sides" in tables.markdown_overview([found, found], ["ours"], names, "raindrop")
    assert r"window of 7 $\times$ 7" in tables.latex_set(found, ["ours"], names, "raindrop")
