"""The data benchmark runs and prints its table (figures are for people, not for tests)."""

import re

import pytest

from unirain_plugin.data.sources import close_environments
from unirain_plugin.errors import OptionError
from unirain_plugin.study.benchmarks import data


def test_every_case_is_measured(capsys, tmp_path):
    try:
        assert data.main(["--images", "1", "--crops", "1", "--repeats", "1", "--dir", str(tmp_path)]) == 0
    finally:
        close_environments()
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if re.search(r"\d+\.\d ms +\d+\.\d ms +\d+\.\d× +[\d.]+×$", line)]
    assert len(rows) == 5
    assert any(line.startswith("gt_size 128; OpenCV") for line in lines)


def test_wrong_arguments():
    with pytest.raises(OptionError, match="--crops: expected 1 or more, found 0"):
        data.main(["--crops", "0"])
