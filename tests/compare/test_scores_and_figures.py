"""Scores, table and figure of the demo."""

import cv2
import numpy as np
import pytest

from unirain_plugin.compare.figure import ERROR_SCALE, Row, comparison_grid, error_map
from unirain_plugin.compare.summary import Score, TypeScore, find_triplets, format_table, read_bgr, score, score_by_type
from unirain_plugin.errors import DataError


@pytest.fixture()
def results(rainrag_root, tmp_path):
    """'Restored' images that are the clean ones but for an error of 5 in every pixel."""
    for rain_type in ("drs", "nrd"):
        folder = tmp_path / "results" / rain_type
        folder.mkdir(parents=True)
        for path in (rainrag_root / rain_type / "target").iterdir():
            image = cv2.imread(str(path)).astype(int)
            image += np.where(image < 128, 5, -5)
            cv2.imwrite(str(folder / f"{path.stem}_ours.png"), image.astype(np.uint8))
    return tmp_path / "results"


def test_scores_by_type(rainrag_root, results):
    triplets = find_triplets(rainrag_root, results, "ours", ["drs", "nrd"])
    rows = score_by_type(triplets)
    assert [(r.rain_type, r.images) for r in rows] == [("drs", 3), ("nrd", 3)]
    expected = 20 * np.log10(255 / 5)  # an error of 5 everywhere: 34.15 dB
    for row in rows:
        assert row.restored.psnr == pytest.approx(expected, abs=1e-6)
        assert row.restored.psnr > row.rainy.psnr


def test_missing_result_is_named(rainrag_root, results):
    (results / "nrd" / "001_ours.png").unlink()
    with pytest.raises(DataError, match=r"nrd/001_ours\.png: missing; expected the restored image of .*001\.png"):
        find_triplets(rainrag_root, results, "ours", ["drs", "nrd"])


def test_unreadable_picture_is_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"broken\.png: cannot be read"):
        read_bgr(broken)


def test_score_of_the_same_picture_is_perfect():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert score(image, image) == Score(float("inf"), pytest.approx(1.0))


def test_table_has_the_mean_over_types():
    rows = [
        TypeScore("drs", 1, Score(20.0, 0.5), Score(22.0, 0.6)),
        TypeScore("nrd", 3, Score(30.0, 0.7), Score(33.0, 0.8)),
    ]
    last = format_table(rows).splitlines()[-1].split()
    assert last == ["mean", "4", "25.00", "27.50", "+2.50", "0.6000", "0.7000"]


def test_perfect_images_are_left_out_of_the_mean_and_told(rainrag_root, results):
    for name in ("000", "001"):
        target = cv2.imread(str(rainrag_root / "drs/target" / f"{name}.png"))
        cv2.imwrite(str(results / "drs" / f"{name}_ours.png"), target)
    drs, nrd = score_by_type(find_triplets(rainrag_root, results, "ours", ["drs", "nrd"]))
    assert drs.restored.psnr == pytest.approx(20 * np.log10(255 / 5))
    assert (drs.perfect, nrd.perfect) == ((0, 2), (0, 0))
    lines = format_table([drs, nrd]).splitlines()
    assert lines[-1].startswith("drs: 0 rainy and 2 restored images equal the clean one;")
    assert "inf" not in "".join(lines[:-1])


def test_error_map_is_on_a_fixed_scale():
    black = np.zeros((4, 4, 3), np.uint8)
    brightest = error_map(np.full_like(black, int(255 * ERROR_SCALE)), black)
    saturated = error_map(np.full_like(black, 255), black)
    assert np.array_equal(brightest, saturated)
    assert not np.array_equal(error_map(black, black), brightest)


def test_grid_shows_every_picture():
    picture = np.full((20, 40, 3), 128, np.uint8)
    row = Row("daytime raindrops", picture, picture, picture, 20.0, 30.0)
    one, two = comparison_grid([row], cell=40), comparison_grid([row, row], cell=40)
    assert one.shape[1] == two.shape[1] == 4 * 40 + 5 * 6
    assert two.shape[0] - one.shape[0] == 20 + 24
    assert (one == 128).all(axis=2).sum() >= 3 * 20 * 40
