"""Fixtures of the runner tests."""

import socket

import pytest
import yaml
from run_helpers import merge
from tiny_run import tiny_train_options, write_rainrag


@pytest.fixture(scope="session")
def rain(tmp_path_factory):
    """A tiny data set for all tests of the session."""
    return write_rainrag(tmp_path_factory.mktemp("rain") / "rainrag", per_type=2, size=(24, 28))


@pytest.fixture()
def options(tmp_path, rain):
    """Writes ``NAME.yml`` with the tiny options; ``sections`` are merged in, None removes a key."""

    def write(name="tiny", total_iter=6, **sections):
        opt = tiny_train_options(rain, name=name, total_iter=total_iter)
        opt["datasets"]["train"]["gt_size"] = 16
        opt["datasets"]["val"]["rain_types"] = ["drs", "nrd"]
        opt["network_g"] |= {"num_blocks": [1, 1], "decoder_blocks": [1], "heads": [1, 1]}
        merge(opt, sections)
        path = tmp_path / f"{name}.yml"
        path.write_text(yaml.safe_dump(opt, sort_keys=False))
        return path

    return write


@pytest.fixture()
def free_port():
    """A TCP port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
