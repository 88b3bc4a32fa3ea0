"""open_clip parts with a tiny model of our own: local weights, local folders, never random, never the network."""

import json

import numpy as np
import pytest
import torch
from distill_helpers import photographs
from PIL import Image

from unirain_plugin.distill.describers.base import Scene
from unirain_plugin.distill.registry import CAPTIONER, EMBEDDER, TEXT_ENCODER, build_part, load_parts
from unirain_plugin.errors import OptionError

load_parts()

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def open_clip():  # imported late: that takes a second, for whoever collects the tests
    return pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def tiny(open_clip, tmp_path_factory):
    """A folder with tiny-clip.json, weights.pt, and the same as a local-dir."""
    root = tmp_path_factory.mktemp("clip")
    (root / "tiny-clip.json").write_text(json.dumps(CONFIG))
    open_clip.add_model_config(root)
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-clip")
    torch.save(model.state_dict(), root / "weights.pt")
    local = root / "local"
    local.mkdir()
    pre = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (local / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": pre}))
    torch.save(model.state_dict(), local / "open_clip_pytorch_model.bin")
    return root


IMAGES = list(photographs(48).values())


def part(tiny, registry=EMBEDDER, **changes):
    section = {"type": "open_clip", "model": "tiny-clip", "pretrained": str(tiny / "weights.pt"), **changes}
    return build_part(registry, section | ({} if registry is CAPTIONER else {"config_dir": str(tiny)}), "e")


def test_embedder_gives_the_model_s_features_in_half_precision_on_a_cpu_too(tiny, open_clip):
    embedder = part(tiny, batch_size=3)
    embedder.check()
    rows = embedder.embed(IMAGES)
    assert rows.shape == (4, 16) and rows.dtype == np.float32
    model, _, transform = open_clip.create_model_and_transforms("tiny-clip", pretrained=str(tiny / "weights.pt"))
    with torch.no_grad():
        wanted = model.eval().encode_image(transform(Image.fromarray(IMAGES[1]))[None])[0].numpy()
    np.testing.assert_allclose(rows[1], wanted, atol=1e-5)
    for precision in ("fp16", "bf16"):
        half = part(tiny, precision=precision).embed(IMAGES[:1])[0]
        assert np.dot(rows[0], half) / np.linalg.norm(rows[0]) / np.linalg.norm(half) > 0.99
    assert (
        embedder.fingerprint() == part(tiny, batch_size=1).fingerprint() != part(tiny, precision="bf16").fingerprint()
    )


def test_local_dir_brings_weights_and_preprocessing_and_none_is_silently_random(tiny):
    def local(folder, registry=EMBEDDER):
        return build_part(registry, {"type": "open_clip", "model": f"local-dir:{folder}", "pretrained": None}, "e")

    local(tiny / "local").check()
    row = local(tiny / "local").embed(IMAGES[:1])[0]
    assert np.isfinite(row).all()
    assert not np.allclose(row, part(tiny).embed(IMAGES[:1])[0])  # other mean and std
    assert local(tiny / "local", TEXT_ENCODER).encode(["rain"]).shape == (1, 16)
    with pytest.raises(OptionError, match="e: pretrained: 'tiny-clip' would be a random model"):
        part(tiny, pretrained=None)
    (tiny / "empty").mkdir(exist_ok=True)
    (tiny / "empty" / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    with pytest.raises(OptionError, match="holds no weights; expected open_clip_pytorch_model"):
        local(tiny / "empty").embed(IMAGES)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"model": "ViT-B-23"}, r"open_clip knows no 'ViT-B-23'\. Did you mean 'ViT-B-32'"),
        ({"model": "ViT-B-32", "pretrained": "openia"}, r"'openia' is neither a file nor a tag of 'ViT-B-32'\. Did"),
        ({"precision": "fp8"}, "precision: expected fp32"),
        ({"device": "gpu"}, "device: 'gpu' is no device"),
        ({"device": "cuda:99"}, "finds no CUDA device"),
        ({"pretrained": "broken.pt"}, "open_clip cannot load 'tiny-clip'"),
    ],
)
def test_wrong_names_are_named(tiny, keys, words, monkeypatch):
    monkeypatch.chdir(tiny)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tiny / "broken.pt").write_bytes(b"nothing")
    with pytest.raises(OptionError, match=words):
        part(tiny, **keys).embed(IMAGES)


def test_text_encoder(tiny):
    texts = ["rain at night", "rain at day", "rain at night", "word " * 300]
    rows = part(tiny, TEXT_ENCODER, normalize=True).encode(texts)
    assert rows.shape == (4, 16)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows[0], rows[2], atol=1e-6)
    assert not np.allclose(rows[0], rows[1])


def test_coca_writes_the_same_caption_every_time(tiny, open_clip):
    decoder = {"context_length": 76, "vocab_size": 49408, "layers": 1, "heads": 2, "width": 32, "mlp_ratio": 1}
    text = {**CONFIG["text_cfg"], "context_length": 76, "embed_cls": True, "output_tokens": True}
    vision = {**CONFIG["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    config = {"embed_dim": 32, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    config["multimodal_cfg"] = {**decoder, "attn_pooler_heads": 2}
    (tiny / "coca_tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tiny)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("coca_tiny").state_dict(), tiny / "coca.pt")
    coca = {"type": "coca", "model": "coca_tiny", "pretrained": str(tiny / "coca.pt"), "max_words": 8}
    captioner = part(tiny, CAPTIONER, **coca)
    captioner.check()
    scenes = [Scene(name, name, image) for name, image in photographs(48).items()]
    first = captioner.caption(scenes)
    assert len(first) == 4 and all(isinstance(text, str) and "<" not in text for text in first)
    assert captioner.caption(scenes) == first
    assert [captioner.caption([scene])[0] for scene in scenes] == first
    with pytest.raises(OptionError, match="'tiny-clip' is no CoCa"):
        part(tiny, CAPTIONER, type="coca").caption(scenes)
