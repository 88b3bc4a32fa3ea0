"""With the default parts, references share the query's rain type, on photographs that they have not in common."""

import numpy as np
from rain_pictures import photographs

from unirain_plugin.distill.cascade import Cascade, ReferenceArrays, TextIndex, build_index
from unirain_plugin.distill.describers.base import Scene
from unirain_plugin.distill.records import luminance, thumbnail
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, build_part, load_parts
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain_types import RAIN_TYPES


def describe(photos, seeds):
    load_parts()
    captioner, embedder, encoder = (
        build_part(registry, {"type": kind}, kind)
        for registry, kind in ((CAPTIONER, "attributes"), (EMBEDDER, "statistics"), (TEXT_ENCODER, "attributes"))
    )
    images, types = [], []
    for photo in photos:
        for rain_type in RAIN_TYPES:
            for seed in seeds:
                images.append(render_rain(photo, rain_type, seed).lq)
                types.append(rain_type)
    text = encoder.encode(captioner.caption([Scene("", "", image) for image in images]))
    planes = np.stack([thumbnail(luminance(image), 128) for image in images])
    return ReferenceArrays(text, embedder.embed(images), planes), np.array(types)


def test_nearest_references_share_the_rain_type():
    photos = list(photographs(256).values())
    agreement = []
    for held_out in range(len(photos)):
        others = [photo for number, photo in enumerate(photos) if number != held_out]
        references, types = describe(others, range(2))
        queries, wanted = describe(photos[held_out : held_out + 1], range(10, 13))
        index = TextIndex(
            build_index(references.text, np.arange(len(types)), "Flat"), np.arange(len(types)), references.text
        )
        rows, _ = Cascade(index, references, 6, 4, 3).retrieve(queries.text, queries.visual, queries.thumbnails)
        agreement += (types[rows] == wanted[:, None]).tolist()
    assert np.mean([row[0] for row in agreement]) >= 0.9
    assert np.mean(agreement) >= 0.9
