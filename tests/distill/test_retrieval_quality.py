"""With the default parts, references share the query's rain type, on photographs that they have not in common."""

import numpy as np
from rain_images import photographs

from unirain_plugin.distill.cascade import Cascade, ReferenceArrays, TextIndex, build_index
from unirain_plugin.distill.describers.base import Scene
from unirain_plugin.distill.records import luminance, thumbnail
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, build_part, load_parts
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain_types import RAIN_TYPES


def describe(photo, seeds):
    """(text, visual, thumbnails, types) of a photograph in every kind of rain."""
    captioner, embedder, encoder = (
        build_part(registry, {"type": kind}, kind)
        for registry, kind in ((CAPTIONER, "attributes"), (EMBEDDER, "statistics"), (TEXT_ENCODER, "attributes"))
    )
    types = np.repeat(RAIN_TYPES, len(seeds))
    images = [render_rain(photo, rain_type, seed).lq for rain_type in RAIN_TYPES for seed in seeds]
    text = encoder.encode(captioner.caption([Scene("", "", image) for image in images]))
    return text, embedder.embed(images), np.stack([thumbnail(luminance(image), 128) for image in images]), types


def test_nearest_references_share_the_rain_type():
    load_parts()
    photos = list(photographs(256).values())
    described = [describe(photo, range(2)) for photo in photos]
    agreement = []
    for held_out, photo in enumerate(photos):
        text, visual, planes, types = map(
            np.concatenate, zip(*described[:held_out], *described[held_out + 1 :], strict=True)
        )
        *query, wanted = describe(photo, range(10, 13))
        index = TextIndex(build_index(text, np.arange(len(types)), "Flat"), np.arange(len(types)), text)
        rows, _ = Cascade(index, ReferenceArrays(text, visual, planes), 6, 4, 3).retrieve(*query)
        agreement += (types[rows] == wanted[:, None]).tolist()
    assert np.mean([row[0] for row in agreement]) >= 0.9
    assert np.mean(agreement) >= 0.9
