"""``--force_yml`` without exec or eval."""

import contextlib
import re
from collections import OrderedDict

import pytest
import yaml
from option_texts import UNIRAIN

from unirain_plugin.errors import OptionError
from unirain_plugin.options import apply_overrides, load_options


@pytest.fixture()
def opt() -> OrderedDict:
    return OrderedDict(yaml.safe_load(UNIRAIN))


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("train:ema_decay=0.999", 0.999),
        ("train:total_iter=7", 7),
        ("name=a=b", "a=b"),
        ("name= spaced ", "spaced"),
        ("path:pretrain_network_g=None", None),
        ("path:pretrain_network_g=~", None),
        ("train:optim_g:lr=!!float1e-4", 1e-4),
        ("train:optim_g:lr=!!float 1e-4", 1e-4),
        ("train:optim_g:lr=1.0e-4", 1e-4),
        ("logger:use_tb_logger=True", True),
        ("network_g:heads=[1, 4]", [1, 4]),
        ("val:tile=256", 256),  # not in the file, but a key that the model reads
        ("train:scheduler:eta_min=0", 0),
        ("datasets:train:use_rot=false", False),
    ],
)
def test_values(entry, value, opt):
    changed = apply_overrides(opt, [entry])
    for key in entry.split("=")[0].split(":"):
        changed = changed[key]
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("train:emma_decay=0.9", "there is no key 'train:emma_decay'. Did you mean 'train:ema_decay'?"),
        ("ema_decay=0.9", "there is no key 'ema_decay'. Did you mean 'train:ema_decay'?"),
        ("trian:total_iter=5", "there is no key 'trian'. Did you mean 'train:total_iter'?"),
        ("train:optimg:lr=1.0", "there is no key 'train:optimg'. Did you mean 'train:optim_g:lr'?"),
        ("train:scheduler:eta_mn=0", "Did you mean 'train:scheduler:eta_min'?"),
        ("train:optim_g=5", "'train:optim_g' is a section; name one of its keys: type, lr, betas"),
        ("name:first=5", "'name' is no section, so it has no key 'first'"),
        ("network_d:type=UniRain", "there is no key 'network_d'"),
        ("train:ema_decay", "expected section:key=value, e.g. train:ema_decay=0.999"),
        ("=5", "expected section:key=value"),
        ("train:=5", "expected section:key=value"),
        ("train:optim_g:lr=1e-4", "write 1.0e-4"),
        ("name=[1,", "not valid YAML"),
    ],
)
def test_refused(entry, says, opt):
    with pytest.raises(OptionError) as caught:
        apply_overrides(opt, [entry])
    assert str(caught.value).startswith(f"--force_yml {entry}: ")
    assert says in str(caught.value)


def test_all_refused_overrides_are_told_and_the_given_options_stay(opt):
    with pytest.raises(OptionError, match=r"(?s)2 mistakes.*emma_decay.*total_itre"):
        apply_overrides(opt, ["train:emma_decay=1", "train:ema_decay=0.5", "train:total_itre=1"])
    before = yaml.safe_dump(dict(opt))
    apply_overrides(opt, ["train:total_iter=7"])
    assert yaml.safe_dump(dict(opt)) == before


@pytest.mark.parametrize(
    "entry",
    [
        'x"];__import__("os").system("touch MARKER");opt["name=5',
        'name=__import__("os").system("touch MARKER")',
        '["__import__"]("os").system("touch MARKER")=1',
        'name=[__import__("os").system("touch MARKER")]',
        'name=!!python/object/apply:os.system ["touch MARKER"]',
    ],
)
def test_nothing_is_executed(entry, opt, tmp_path):
    marker = tmp_path / "ran"
    with contextlib.suppress(OptionError):
        apply_overrides(opt, [entry.replace("MARKER", str(marker))])
    assert not marker.exists()


def test_a_wrong_value_is_traced_to_the_command_line(rainrag_root, tmp_path):
    file = tmp_path / "valid.yml"
    file.write_text(UNIRAIN.replace("DATA", str(rainrag_root)))
    for entry, says in (
        ("train:total_iter=-1", "train.total_iter: found -1; expected"),
        ("datasets:train:dataroot=/nowhere", "datasets.train.dataroot: there"),
        ("train:optim_g={type: Adam, lr: -1}", "train.optim_g.lr: found -1"),
    ):
        with pytest.raises(OptionError, match=f"^{re.escape(f'--force_yml {entry}: {says}')}"):
            load_options(file, [entry])
