"""Joining a process group: what the launchers give, and what is said when they do not."""

import pytest
import torch
import torch.distributed as dist

from unirain_plugin.errors import OptionError
from unirain_plugin.runs import distributed
from unirain_plugin.runs.distributed import agreed, init_process_group, leave_process_group

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Set and forget, so that what the code writes is undone as well."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def torchrun(monkeypatch, *values):
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def slurm(monkeypatch, **more):
    for name, value in {"PROCID": "0", "NTASKS": "1", "NODELIST": "localhost", "LOCALID": "0", **more}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def test_slurm_without_gpus(monkeypatch, free_port):
    slurm(monkeypatch)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    init_process_group("slurm", on_gpu=False, port=free_port)
    try:
        assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ("gloo", 0, 1)
        assert agreed({"seed": 3}) == {"seed": 3}
    finally:
        leave_process_group()
    assert not dist.is_initialized()
    leave_process_group()


def test_slurm_asks_scontrol_for_the_master(monkeypatch, tmp_path):
    slurm(monkeypatch, PROCID="5", NTASKS="8", LOCALID="1", NODELIST="node[3-4]")
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho node3; echo node4\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    joined = {}
    monkeypatch.setattr(dist, "init_process_group", lambda **kwargs: joined.update(kwargs))
    init_process_group("slurm", on_gpu=False)
    environment = {name: distributed.os.environ[name] for name in VARIABLES}
    assert environment == dict(zip(VARIABLES, ("5", "8", "1", "node3", "29500"), strict=True))
    assert joined["backend"] == "gloo"


def test_missing_environments_are_named():
    with pytest.raises(OptionError, match=r"--launcher pytorch: the environment lacks RANK, WORLD_SIZE.*torchrun"):
        init_process_group("pytorch", on_gpu=False)
    with pytest.raises(OptionError, match=r"--launcher slurm: the environment lacks SLURM_PROCID.*srun"):
        init_process_group("slurm", on_gpu=False)


def test_each_process_takes_the_gpu_of_its_local_rank_if_there_is_one(monkeypatch):
    """Also where the machines have different numbers of GPUs: rank 5 is process 1 of the second machine."""
    taken, joined = [], {}
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "init_process_group", lambda **kwargs: joined.update(kwargs))
    torchrun(monkeypatch, "5", "6", "1", "127.0.0.1", "1")
    init_process_group("pytorch", on_gpu=True)
    assert taken == [torch.device("cuda", 1)] and joined["backend"] == "nccl"
    torchrun(monkeypatch, "3", "4", "3", "127.0.0.1", "1")
    with pytest.raises(OptionError, match=r"process 3 of this machine has no GPU of its own \(found 2\)"):
        init_process_group("pytorch", on_gpu=True)
    assert agreed(7) == 7  # alone
