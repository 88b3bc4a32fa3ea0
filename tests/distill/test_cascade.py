"""The cascade against a brute-force implementation, ties included; its SSIM; FAISS errors; rain of what is found."""

import cv2
import faiss
import numpy as np
import pytest
from basicsr.metrics import calculate_ssim
from distill_helpers import photographs

from unirain_plugin.distill.cascade import (
    Cascade,
    ReferenceArrays,
    TextIndex,
    build_index,
    cosine,
    read_index,
    ssim_of_pairs,
    ssim_one_to_many,
    ssim_terms,
)
from unirain_plugin.distill.describers.base import Scene
from unirain_plugin.distill.options import RetrievalOptions
from unirain_plugin.distill.records import DistillError, luminance, thumbnail
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, build_part, load_parts
from unirain_plugin.errors import OptionError
from unirain_plugin.rain.render import render_rain
from unirain_plugin.rain_types import RAIN_TYPES
from unirain_plugin.support.spec import parse_section


def make_arrays(rng, count, same=1):
    """Random references; captions repeat in groups of ``same``, so that their distances tie."""
    text = np.repeat(rng.normal(size=(-(-count // same), 6)), same, axis=0)[:count].astype(np.float32)
    coarse = rng.integers(0, 256, (count, 6, 6), dtype=np.uint8)
    return ReferenceArrays(text, rng.normal(size=(count, 5)).astype(np.float32), coarse.repeat(4, 1).repeat(4, 2))


def brute_force(references, text, visual, thumbnail, k1, k2, k3):
    """The paper's three formulas, one pair at a time, in float64; the earlier reference wins a tie."""
    s_txt = [np.linalg.norm(text.astype(np.float64) - row) for row in references.text.astype(np.float64)]
    c1 = sorted(range(len(s_txt)), key=lambda r: (s_txt[r], r))[:k1]
    s_vis = {
        r: float(np.dot(visual.astype(np.float64), v) / (np.linalg.norm(visual.astype(np.float64)) * np.linalg.norm(v)))
        for r, v in ((r, references.visual[r].astype(np.float64)) for r in c1)
    }
    c2 = sorted(c1, key=lambda r: (-s_vis[r], r))[:k2]
    s_perc = {r: calculate_ssim(thumbnail[..., None], references.thumbnails[r][..., None], 0) for r in c2}
    return [(r, s_txt[r], s_vis[r], s_perc[r]) for r in sorted(c2, key=lambda r: (-s_perc[r], r))[:k3]]


def text_index(vectors, rows=None, factory="Flat", nprobe=None):
    rows = np.arange(len(vectors)) if rows is None else rows
    return TextIndex(build_index(vectors, rows, factory), rows, vectors, nprobe)


@pytest.mark.parametrize("same", [1, 3, 60])
@pytest.mark.parametrize("ks", [(40, 10, 3), (5, 5, 5), (1, 1, 1), (500, 400, 300)])
def test_equals_brute_force(same, ks):
    rng = np.random.default_rng(same)
    references = make_arrays(rng, 120, same)
    queries = make_arrays(rng, 7)
    queries.text[0] = references.text[50]  # a caption that references have as well
    cascade = Cascade(text_index(references.text), references, *ks)
    rows, similarities = cascade.retrieve(queries.text, queries.visual, queries.thumbnails)
    for i in range(7):
        wanted = brute_force(references, queries.text[i], queries.visual[i], queries.thumbnails[i], *ks)
        assert rows[i, : len(wanted)].tolist() == [row for row, *_ in wanted]
        assert (rows[i, len(wanted) :] == -1).all()
        np.testing.assert_allclose(similarities[i, : len(wanted)], [values for _, *values in wanted], atol=1e-5)


def test_ties_go_to_the_earlier_reference_at_every_level():
    for kinds in ((1, 60, 60), (60, 3, 60), (60, 60, 3), (1, 1, 1)):
        rng = np.random.default_rng(6)
        every = make_arrays(rng, 60)
        order = [rng.integers(0, kind, 60) for kind in kinds]  # which of so many captions, vectors, thumbnails each has
        arrays = zip((every.text, every.visual, every.thumbnails), order, strict=True)
        references = ReferenceArrays(*(array[numbers] for array, numbers in arrays))
        query = make_arrays(rng, 1)
        cascade = Cascade(text_index(references.text), references, 50, 40, 30)
        found, _ = cascade.retrieve(query.text, query.visual, query.thumbnails)
        wanted = brute_force(references, query.text[0], query.visual[0], query.thumbnails[0], 50, 40, 30)
        assert found[0].tolist() == [row for row, *_ in wanted]


def test_ties_do_not_go_by_the_order_in_which_an_index_finds_them():
    class Backwards:
        d = 6

        def search(self, queries, count):
            return np.zeros((1, count), np.float32), np.arange(count)[::-1][None]

    rows, vectors = np.arange(0, 40, 2), np.zeros((40, 6), np.float32)
    ((found, distances),) = TextIndex(Backwards(), rows, vectors).nearest(np.ones((1, 6), np.float32), 5)
    assert found.tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(distances, 6**0.5)


def test_result_does_not_depend_on_the_batch(monkeypatch):
    monkeypatch.setattr("unirain_plugin.distill.cascade._BLOCK", 10)
    rng = np.random.default_rng(3)
    references, queries = make_arrays(rng, 200), make_arrays(rng, 33)
    cascade = Cascade(text_index(references.text), references, 30, 10, 4)
    rows, similarities = cascade.retrieve(queries.text, queries.visual, queries.thumbnails)
    for i in range(33):
        one = cascade.retrieve(queries.text[i : i + 1], queries.visual[i : i + 1], queries.thumbnails[i : i + 1])
        np.testing.assert_array_equal(one[0][0], rows[i])
        np.testing.assert_array_equal(one[1][0], similarities[i])


def nearest_by_hand(vectors, rows, query, k):
    distances = np.linalg.norm(vectors[rows].astype(np.float64) - query, axis=1)
    return rows[np.argsort(distances, kind="stable")[:k]].tolist()


def test_rows_left_out_of_the_index_are_never_found(monkeypatch):
    monkeypatch.setattr("unirain_plugin.distill.cascade._ADD_ROWS", 7)
    rng = np.random.default_rng(4)
    vectors = rng.normal(size=(80, 6)).astype(np.float32)
    rows = np.arange(1, 80, 2)
    found = text_index(vectors, rows).nearest(vectors[:5], 3)
    assert [r.tolist() for r, _ in found] == [nearest_by_hand(vectors, rows, query, 3) for query in vectors[:5]]
    everything = text_index(vectors, rows).nearest(vectors[:5], 80)
    assert all(sorted(r.tolist()) == rows.tolist() for r, _ in everything)


def test_the_rounding_of_the_index_decides_nothing():
    rng = np.random.default_rng(8)
    vectors = (10 + rng.normal(size=(400, 6)) / 50).astype(np.float32)
    rows, queries = np.arange(400), vectors[:30] + np.float32(0.01)

    class IndexFlatL2:  # as FAISS's, with all of float32's rounding of |q|² + |v|² − 2 q·v
        d = 6

        def search(self, queries, count):
            squares = np.square(vectors[None].astype(np.float64) - queries[:, None]).sum(2)
            squares += rng.uniform(-1, 1, squares.shape) * 1e-6 * 4 * np.square(queries).sum(1, keepdims=True)
            places = np.argsort(squares, axis=1)[:, :count]
            return np.take_along_axis(squares, places, 1), places

    found = TextIndex(IndexFlatL2(), rows, vectors).nearest(queries, 10)
    assert [r.tolist() for r, _ in found] == [nearest_by_hand(vectors, rows, query, 10) for query in queries]


def test_other_indexes_find_nearly_the_same():
    vectors = np.random.default_rng(5).normal(size=(300, 8)).astype(np.float32)
    exact = text_index(vectors).nearest(vectors[:20], 10)
    for factory, nprobe in (("IVF4,Flat", 4), ("SQ8", None), ("HNSW8", None)):
        found = text_index(vectors, None, factory, nprobe).nearest(vectors[:20], 10)
        both = [(a, b) for (a, _), (b, _) in zip(exact, found, strict=True)]
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in both]) >= 0.9
        assert all(a[0] == b[0] for a, b in both)


def test_index_errors_name_the_numbers(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    path, broken = tmp_path / "i.faiss", tmp_path / "broken.faiss"
    faiss.write_index(build_index(vectors, np.arange(20), "Flat"), str(path))
    assert read_index(path, 8, 20).ntotal == 20
    broken.write_bytes(b"nonsense")
    holds = "holds 20 vectors of 8 dimensions; the text encoder gives"
    for use, error, told in (
        (lambda: text_index(vectors, None, "Flatt"), OptionError, r"retrieval\.index: FAISS cannot build 'Flatt'"),
        (lambda: text_index(vectors, None, "IVF64,Flat"), OptionError, "cannot build 'IVF64,Flat' over 20 vectors"),
        (lambda: read_index(path, 9, 20), OptionError, f"{holds} 20 vectors of 9"),
        (lambda: read_index(path, 8, 21), OptionError, f"{holds} 21 vectors of 8"),
        (lambda: read_index(broken, 8, 20), OptionError, r"broken\.faiss: FAISS cannot read"),
        (lambda: text_index(vectors).nearest(vectors[:, :5], 3), DistillError, "8 dimensions, the queries have 5"),
        (lambda: text_index(vectors, nprobe=4), OptionError, r"retrieval\.nprobe: is of IVF indexes; the index is"),
        (
            lambda: parse_section(RetrievalOptions, {"nprobe": 4}, "retrieval"), OptionError,
            r"retrieval\.nprobe: is of IVF indexes, got index 'Flat'",
        ),
    ):  # fmt: skip
        with pytest.raises(error, match=told):
            use()


def test_cosine_of_a_zero_vector_is_zero():
    rows = np.array([[1, 0], [0, 0], [-2, 0], [1, 1]], np.float32)
    np.testing.assert_allclose(cosine(np.array([3, 0], np.float32), rows), [1, 0, -1, 0.5**0.5])
    assert (cosine(np.zeros(2, np.float32), rows) == 0).all()


def sample_planes():
    rng = np.random.default_rng(0)
    photos = [photo[..., 0] for photo in photographs(64).values()]
    extremes = [np.full_like(photos[0], value) for value in (0, 3, 255)]
    noise = rng.integers(0, 256, photos[0].shape, dtype=np.uint8)
    return np.stack([*photos, *extremes, noise, 255 - photos[0], cv2.GaussianBlur(photos[1], (0, 0), 2)])


def test_ssim_equals_the_toolbox_and_knows_identity():
    planes = sample_planes()
    terms = [ssim_terms(plane) for plane in planes]
    many = ssim_one_to_many(terms[0], terms)
    assert many[0] == pytest.approx(1.0, abs=1e-6)
    for plane, term in zip(planes, terms, strict=True):
        wanted = [calculate_ssim(plane[..., None], other[..., None], 0) for other in planes]
        np.testing.assert_allclose(ssim_one_to_many(term, terms), wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(many, [ssim_one_to_many(terms[0], [term])[0] for term in terms])
    with pytest.raises(ValueError, match="one size"):
        ssim_one_to_many(terms[0], [ssim_terms(planes[0][:, 1:])])


def test_pairs_of_ssim_share_prepared_references_and_are_symmetric():
    planes = sample_planes()
    rows = [np.array([3, 1, 7]), np.array([], np.int64), np.array([7]), np.array([1, 3])]
    loads = []
    values = ssim_of_pairs(planes[:4], rows, lambda row: loads.append(row) or planes[row])
    assert loads == [1, 3, 7]
    for query, (numbers, found) in enumerate(zip(rows, values, strict=True)):
        wanted = ssim_one_to_many(ssim_terms(planes[query]), [ssim_terms(planes[n]) for n in numbers])
        np.testing.assert_array_equal(found, wanted)


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
        others = zip(*described[:held_out], *described[held_out + 1 :], strict=True)
        text, visual, planes, types = map(np.concatenate, others)
        *query, wanted = describe(photo, range(10, 13))
        rows, _ = Cascade(text_index(text), ReferenceArrays(text, visual, planes), 6, 4, 3).retrieve(*query)
        agreement += (types[rows] == wanted[:, None]).tolist()
    assert np.mean([row[0] for row in agreement]) >= 0.9
    assert np.mean(agreement) >= 0.9
