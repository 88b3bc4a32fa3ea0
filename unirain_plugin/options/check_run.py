"""How keys of the run must fit together and fit the machine: devices, schedules, validation, loggers."""

import importlib.util
from collections.abc import Iterator, Mapping

from unirain_plugin.options.sections import arguments_of, called, model_class, network_options_of, section
from unirain_plugin.options.toolbox_keys import is_known, is_stock, reads_of
from unirain_plugin.options.yaml_loader import Problems
from unirain_plugin.support.files import safe_path
from unirain_plugin.support.spec import found


def check_run(opt: Mapping, problems: Problems, is_train: bool) -> None:
    """Note what the single values do not show."""
    _check_name(opt, problems)
    _check_devices(opt, problems)
    _check_logger(opt, problems)
    _check_network_options(opt, problems, is_train)
    if is_train:
        _check_losses(opt, problems)
        _check_optimizers(opt, problems)
        _check_schedule(opt, problems)
        _check_validation(opt, problems)
    elif "network_g" in opt and isinstance(path := opt.get("path"), Mapping) and path.get("pretrain_network_g") is None:
        text = "no weights are named, so the network is tested as it is initialised, at random."
        problems.warn(("path", "pretrain_network_g"), text)


def _check_name(opt: Mapping, problems: Problems) -> None:
    name = opt.get("name")
    if not isinstance(name, str):
        return
    if "/" in name or safe_path(name) != name:
        text = "a name without slashes and control characters, of 200 bytes or less (it becomes the folder of the run)"
        problems.error(("name",), f"found {found(name)}; expected {text}.")
    elif "debug" in name:
        text = "a name with 'debug' in it makes the toolbox log every iteration, save and validate every 8, and write "
        problems.warn(("name",), text + "no TensorBoard log.")


def _check_devices(opt: Mapping, problems: Problems) -> None:
    import torch

    count, wanted = torch.cuda.device_count(), opt.get("num_gpu")
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
        return
    if count == 0:
        text = f"found {wanted}, but PyTorch sees no CUDA device here; write 'auto' (uses what is there) or 0 (CPU)."
        problems.error(("num_gpu",), text)
    elif wanted > count:
        problems.warn(("num_gpu",), f"found {wanted}, but PyTorch sees {count} CUDA device(s) on this machine.")


def _check_logger(opt: Mapping, problems: Problems) -> None:
    logger = section(opt, "logger")
    if logger.get("use_tb_logger") is True and importlib.util.find_spec("tensorboard") is None:
        problems.error(("logger", "use_tb_logger"), "needs TensorBoard: pip install tensorboard, or write false.")
    if section(logger, "wandb").get("project") is None:
        return
    if logger.get("use_tb_logger") is not True:
        problems.error(("logger", "wandb", "project"), "needs 'use_tb_logger: true': wandb copies TensorBoard's log.")
    if importlib.util.find_spec("wandb") is None:
        problems.error(("logger", "wandb", "project"), "needs wandb: pip install wandb, or write ~ to do without.")


def _check_network_options(opt: Mapping, problems: Problems, is_train: bool) -> None:
    """A model may read options of its network, such as ``window_size``, which another network does not have.

    The toolbox's do so in the first validation. Of others' models it is a warning.
    """
    cls = model_class(opt)
    for network, name in sorted(network_options_of(cls)) if cls is not None else ():
        target, here = called(opt, (network,)), section(opt, network)
        if target is None or name in here:
            continue
        lacks = name not in arguments_of(target[0])[0]
        gap = f", but {here['type']} has no such option: take another model_type, such as UniRainModel or SRModel."
        gap = gap if lacks else f" (the default of {here['type']} does not count)."
        text = f"is missing; {opt['model_type']} reads it here{gap}"
        fatal = is_stock(cls) and (not is_train or isinstance(opt.get("val"), Mapping))
        (problems.error if fatal else problems.warn)((network, name), text)


def _check_losses(opt: Mapping, problems: Problems) -> None:
    from basicsr.models.sr_model import SRModel

    cls, train = model_class(opt), section(opt, "train")
    if not is_known(cls) or not issubclass(cls, SRModel) or "gan_opt" in reads_of(cls).keys(("train",)):
        return
    if train and not train.get("pixel_opt") and not train.get("perceptual_opt"):
        text = "no loss is given; expected 'pixel_opt' (or 'perceptual_opt'), e.g. {type: L1Loss, loss_weight: 1.0}."
        # a misspelt ``…_opt`` may have been reported already
        alike = [key for key in train if str(key).endswith("_opt") or "pixel" in str(key)]
        told = any(("train", key) in problems.wrong for key in alike)
        if not told and not problems.is_wrong(("train", "pixel_opt")):
            problems.error(("train", "pixel_opt"), text)


def _check_optimizers(opt: Mapping, problems: Problems) -> None:
    """Build each optimiser once for a parameter of no use: torch checks the ranges of its options itself."""
    import torch

    for key in section(opt, "train"):
        path = ("train", key)
        target = called(opt, path) if str(key).startswith("optim_") else None
        if target is None or problems.is_wrong(path):
            continue
        cls, own_keys, _ = target
        arguments = {name: value for name, value in section(opt, *path).items() if name not in own_keys}
        try:
            cls([torch.nn.Parameter(torch.zeros(1))], **arguments)
        except (ValueError, TypeError, RuntimeError, LookupError) as error:
            problems.error(path, f"{cls.__name__} refuses its options: {error}.")


def _check_schedule(opt: Mapping, problems: Problems) -> None:
    train = section(opt, "train")
    scheduler, total = section(train, "scheduler"), train.get("total_iter")
    kind, where = scheduler.get("type"), ("train", "scheduler")
    if not isinstance(total, (int, float)) or isinstance(total, bool):
        total = None
    warmup = train.get("warmup_iter")
    if total is not None and isinstance(warmup, (int, float)) and warmup > total:
        text = f"found {warmup}, more than total_iter ({total:g}): the learning rate never reaches its full value."
        problems.warn(("train", "warmup_iter"), text)
    if problems.is_wrong(where) or not isinstance(kind, str):
        return
    for key, text in schedule_faults(scheduler, total):
        problems.error((*where, key), text)
    late = [step for step in scheduler.get("milestones") or [] if total is not None and step > total]
    if late:
        problems.warn((*where, "milestones"), f"{late} lie(s) behind total_iter ({total:g}) and is never reached.")


def schedule_faults(scheduler: Mapping, total: float | None) -> Iterator[tuple[str, str]]:
    """Lists of a schedule that do not fit together or the run's ``total_iter`` (None: wrong), as key and complaint."""
    cycles = "periods" if "periods" in scheduler else "restarts"
    lengths = len(scheduler.get(cycles, [0])), len(scheduler.get("restart_weights", [1]))
    if lengths[0] != lengths[1]:
        text = f"found {lengths[1]} weight(s) for {lengths[0]} entries of '{cycles}'; expected as many of each."
        yield "restart_weights", text
    covered = sum(scheduler["periods"]) if isinstance(scheduler.get("periods"), list) else None
    # The toolbox asks for the rate at steps 0 to total_iter - 1 and fails at the first that no period covers.
    if total is not None and covered is not None and covered < total - 1:
        text = f"add up to {covered:g}, less than total_iter ({total:g}): training would stop with an error there."
        yield "periods", text


def _check_validation(opt: Mapping, problems: Problems) -> None:
    phases = [phase for phase in section(opt, "datasets") if str(phase).split("_")[0] == "val"]
    if phases and opt.get("val") is None and not any(path[0] == "val" for path in problems.wrong if path):
        text = "is never used: there is no section 'val:' (with val_freq, save_img, metrics)."
        problems.warn(("datasets", phases[0]), text)
    if section(opt, "val") and not phases:
        problems.warn(("val",), "nothing to validate on: 'datasets' has no 'val' section.")
