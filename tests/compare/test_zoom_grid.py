"""The figure: where it zooms, what it writes below, and what is drawn where."""

import numpy as np
import pytest
from comparison_data import COLOURS, PAIRED, SNAPSHOTS, arrays, comparison
from PIL import Image

from unirain_plugin.compare.figure import (
    WIDTH,
    Box,
    Chosen,
    choose_images,
    draw_block,
    error_map,
    most_different_box,
    write_zoom_grid,
)
from unirain_plugin.compare.options import FigureOptions
from unirain_plugin.errors import OptionError


@pytest.mark.parametrize("edge", [24, 500])
def test_box_is_where_the_difference_is_and_of_equal_images_the_first_and_fits(edge):
    image = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    for other in (image, image ^ 1):  # as different everywhere, but for rounding
        assert most_different_box(image, other, edge) == Box(0, 0, min(edge, 30), min(edge, 50))
    target = np.full((80, 120, 3), 50, np.uint8)
    image = target.copy()
    image[33:49, 70:86] = 200
    image[0:4, 0:4] = 255  # brighter, but small
    assert most_different_box(image, target, 16) == Box(33, 70, 16, 16)


def test_named_images_are_found_and_without_names_each_type_has_its_largest_gain():
    chosen = choose_images(comparison(), ["Snapshots/walk <i>", "Paired/two@10,20"])
    assert chosen == [Chosen(SNAPSHOTS, "walk <i>"), Chosen(PAIRED, "two", (10, 20))]
    assert chosen[1].box(32, (60, 100, 3)) == Box(20, 10, 32, 32)
    with pytest.raises(OptionError, match=r"no image 'Paired/tow' .* Did you mean 'Paired/two'\?"):
        choose_images(comparison(), ["Paired/tow"])
    with pytest.raises(OptionError, match=r"Paired/two@90,20.* 32×32 pixels .*\(100×60\)"):
        choose_images(comparison(), ["Paired/two@90,20"])[0].box(32, (60, 100, 3))
    assert [c.image for c in choose_images(comparison(), [])] == ["one", "three", "walk <i>"]


def count(pixels, colour):
    return int((np.asarray(pixels) == colour).all(axis=2).sum())


def drawn(test_set=PAIRED, image="one", models=("Good", "Bad"), found=None, box=40):
    return draw_block("title", found or arrays(test_set, image), list(models), box, 0.2)


def test_every_image_and_error_is_drawn():
    block = drawn()
    assert block.width == WIDTH
    # Four columns and a whole image of 1.67: a cell of 231 pixels, of which the frame of 3 hides the rim.
    for name in ("input", "Good", "Bad", "gt"):
        assert count(block, COLOURS[name]) >= 225 * 225
    gt = np.full((1, 1, 3), COLOURS["gt"], np.uint8)
    for name in ("input", "Good", "Bad"):
        colour = error_map(np.full((1, 1, 3), COLOURS[name], np.uint8), gt, 0.2)[0, 0, ::-1]
        assert count(block, colour) >= 230 * 230
    green = (0, 110, 60)
    best, good = (
        (np.asarray(block) == colour).all(axis=2).any(axis=0).nonzero()[0] for colour in (green, COLOURS["Good"])
    )
    assert count(block, green) > 50 and good[0] - 5 <= best[0] <= best[-1] <= good[-1], "the best model's name and PSNR"
    assert count(drawn(models=()), green) == 0


def test_missing_result_keeps_its_column_and_without_clean_image_there_are_no_errors():
    whole, part, snapshot = drawn(), drawn(image="two"), drawn(SNAPSHOTS)
    assert part.size == whole.size
    assert count(part, COLOURS["Bad"]) == 0 and count(part, (238, 238, 238)) > 2 * 200 * 200
    assert snapshot.height < whole.height * 0.75
    assert count(snapshot, COLOURS["Bad"]) >= 225 * 225 and count(snapshot, (0, 110, 60)) == 0


def test_many_models_are_wrapped_and_long_names_cut():
    names = [f"a model with a very long name indeed {n}" for n in range(6)]
    many = {**arrays(PAIRED, "one"), **dict.fromkeys(names, np.zeros((60, 100, 3), np.uint8))}
    block = drawn(models=names, found=many)
    assert block.width == WIDTH and count(block, (0, 0, 0)) > 6 * 200 * 200
    assert block.height > 1.5 * drawn(models=["Good"]).height


def test_given_box_is_zoomed_and_the_error_map_on_a_fixed_scale():
    found = arrays(PAIRED, "one")
    found["input"][20:40, 60:90] = (255, 0, 255)
    block = drawn(models=["Good"], found=found, box=Box(20, 60, 20, 30))
    assert count(block, (255, 0, 255)) > 280 * 200, "a flat magenta cell of the box's shape"
    black = np.zeros((4, 4, 3), np.uint8)
    brightest, saturated = (error_map(np.full_like(black, level), black, 0.2) for level in (51, 255))
    assert np.array_equal(brightest, saturated)
    assert not np.array_equal(error_map(black, black, 0.2), brightest)


def test_written_figure(tmp_path):
    options = FigureOptions(images=["Paired/one", "Paired/three", "Snapshots/walk <i>"], crop=32, error_scale=0.1)
    path = tmp_path / "new" / "figure.png"
    write_zoom_grid(comparison(), path, options)
    with Image.open(path) as image:
        assert image.format == "PNG" and image.width == WIDTH
        blocks = [draw_block("", arrays(*key.split("/", 1)), ["Good", "Bad"], 32, 0.1).height for key in options.images]
        assert count(image, (238, 238, 238)) < 1000, "the model without any result has no column"
        assert sum(blocks) < image.height < sum(blocks) + 200
    first = path.read_bytes()
    write_zoom_grid(comparison(), path, options)
    assert path.read_bytes() == first
