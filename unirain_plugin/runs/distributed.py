"""Several processes: the process group with or without GPUs, and what the ranks must agree on."""

import datetime
import multiprocessing
import os
import subprocess
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from unirain_plugin.errors import OptionError

T = TypeVar("T")

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=2)
"""How long ranks wait for each other. Our choice: the toolbox's models validate on rank 0 while the others wait, and
that can take longer than the default of 10 minutes (NCCL). A process that dies is noticed at once by torchrun."""


def fork_workers() -> None:
    """Start loader workers by fork, unless the program has chosen otherwise.

    The toolbox's ``init_dist`` would choose ``spawn``, by which every worker of every epoch imports the toolbox
    anew: seconds each. Workers only decode images and never touch CUDA, so a fork is safe.
    """
    if multiprocessing.get_start_method(allow_none=True) is None and "fork" in multiprocessing.get_all_start_methods():
        multiprocessing.set_start_method("fork")


def init_process_group(launcher: str, on_gpu: bool, port: int | str | None = None) -> None:
    """Join the process group: NCCL with a GPU a process, gloo on CPUs (where the toolbox divides by zero).

    ``launcher`` is ``pytorch`` (torchrun) or ``slurm``; ``port``, for Slurm, the master's, where MASTER_PORT does not
    name it (29500, as in the toolbox). An OptionError if the launcher's environment is missing, or there are more
    processes than GPUs on this machine.
    """
    if launcher == "slurm":
        _environment_from_slurm(port)
    missing = [key for key in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if key not in os.environ]
    if missing:
        command = "torchrun --nproc_per_node=N -m unirain_plugin.train -opt FILE --launcher pytorch"
        text = f"the environment lacks {', '.join(missing)}. Start the processes with `{command}`."
        raise OptionError(f"--launcher {launcher}: {text}")
    device = None
    if on_gpu:
        local_rank, gpus = int(os.environ.get("LOCAL_RANK", os.environ["RANK"])), torch.cuda.device_count()
        if local_rank >= gpus:
            text = f"process {local_rank} of this machine has no GPU of its own (found {gpus})"
            advice = "Start one process a GPU, or set `num_gpu: 0` to compute on CPUs."
            raise OptionError(f"--launcher {launcher}: {text}. {advice}")
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group(backend="nccl" if on_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT, device_id=device)


def _environment_from_slurm(port: int | str | None) -> None:
    missing = [key for key in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_NODELIST") if key not in os.environ]
    if missing:
        raise OptionError(f"--launcher slurm: the environment lacks {', '.join(missing)}; start it with srun.")
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
    if port is not None:
        os.environ["MASTER_PORT"] = str(port)
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        command = ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]]
        names = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        os.environ["MASTER_ADDR"] = names[0]


def leave_process_group() -> None:
    """Leave the group, if there is one, so that the program ends without NCCL's complaint."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def agreed(value: T) -> T:
    """Rank 0's value, on every rank. Without a process group: ``value``."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def model_to_device(model: object, net: nn.Module) -> nn.Module:
    """Replaces ``BaseModel.model_to_device``: DDP also on CPUs, where the toolbox asks for the current CUDA device."""
    net = net.to(model.device)
    if model.opt["dist"]:
        device_ids = [torch.cuda.current_device()] if model.device.type == "cuda" else None
        unused = model.opt.get("find_unused_parameters", False)
        return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=unused)
    return DataParallel(net) if model.opt["num_gpu"] > 1 else net
