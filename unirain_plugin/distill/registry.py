"""The four registries of the pipeline's exchangeable parts, made with BasicSR's ``Registry``, and the parts' base.

A voter of your own, chosen in YAML by ``type: TooDark`` (with ``imports: [my_voters]``), is a subclass of
:class:`~unirain_plugin.distill.voters.base.Voter` with ``@VOTER.register()`` above it.
"""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

from unirain_plugin.distill.records import DistillError
from unirain_plugin.errors import OptionError, UniRainError, did_you_mean
from unirain_plugin.support.packages import import_own, own_code, own_place
from unirain_plugin.support.spec import complaint, words
from unirain_plugin.toolbox import registries

T = TypeVar("T")
R = TypeVar("R")


class Part:
    """Base of captioners, embedders, text encoders and voters.

    Constructors take the YAML section's keys, check them (``OptionError``) and stay cheap; models are loaded on first
    use, in the worker process. In a dataclass the fields are the keys, held to their types and rules.
    """

    version: ClassVar[int] = 1  # raise it whenever results can change, so that old shards are not mixed with new ones
    concurrency: int = 1  # items that it works on at a time; the pipeline hands over at least so many, if it has them

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for name in (field.name for field in fields(self) if field.init):
            value = getattr(self, name)
            if complaint(value, hints[name]):
                raise OptionError(f"{name}: expected {words(hints[name])}, got {value!r}.")

    def check(self) -> None:
        """Look, before the work begins, whether packages and files are there (OptionError). Loads no model."""

    def fingerprint(self) -> dict[str, Any]:
        """What the results depend on, JSON-able, for the config hash (the default: every public plain attribute).

        Never a secret, and nothing that only changes speed.
        """
        plain = (str, int, float, bool, list, tuple, dict, type(None))
        values = {k: v for k, v in vars(self).items() if not k.startswith("_") and isinstance(v, plain)}
        return {"type": type(self).__qualname__, "version": self.version, **values}

    def close(self) -> None:
        """Free connections and models; called once when a worker ends."""


def file_stamp(path: str | Path) -> dict[str, Any]:
    """Name, size and time of a file, to notice that it was exchanged; OptionError if it is missing."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise OptionError(f"{path}: {error.strerror or error}.") from error
    return {"path": str(path), "bytes": stat.st_size, "mtime": int(stat.st_mtime)}


Registry: type = registries().Registry


class PartRegistry(Registry):  # type: ignore[misc,valid-type]
    """BasicSR's Registry; a class that sets ``registry_name`` in its own body is filed under that name."""

    def _do_register(self, name: str, obj: Any, suffix: str | None = None) -> None:
        if not (isinstance(obj, type) and issubclass(obj, Part)):
            raise TypeError(f"{name} is registered as {self._name}, and no class derived from the base of such parts")
        super()._do_register(vars(obj).get("registry_name", name), obj, suffix)


CAPTIONER = PartRegistry("captioner")  # image → sentence (T in the paper's triplet)
EMBEDDER = PartRegistry("embedder")  # image → vector (f in the paper's triplet)
TEXT_ENCODER = PartRegistry("text encoder")  # sentence → vector (the paper's φ_T)
VOTER = PartRegistry("voter")  # candidate with its retrieved references → verdict (the paper's R^i)
ONE_EACH = {"captioner": CAPTIONER, "embedder": EMBEDDER, "text_encoder": TEXT_ENCODER}  # by their keys


def load_parts(imports: Iterable[str] = ()) -> None:
    """Import the built-in parts and the user's modules, which registers them; OptionError if one cannot be imported."""
    for room in ("describers", "voters"):
        importlib.import_module(f"unirain_plugin.distill.{room}")
    import_own(imports)


def check_section(registry: Registry, section: object, where: str) -> tuple[type, dict[str, Any]]:
    """A YAML section's class and its keyword arguments; an OptionError names ``where`` and the wrong or missing key."""
    known = sorted(registry.keys())
    if not isinstance(section, Mapping) or not isinstance(section.get("type"), str):
        raise OptionError(f"{where}: expected a mapping with a `type`, one of {known}; got {section!r}.")
    kwargs = {key: value for key, value in section.items() if key != "type"}
    name = section["type"]
    if name not in registry:
        raise OptionError(f"{where}: unknown type '{name}'.{did_you_mean(name, known)} Known: {known}.")
    cls = dict(iter(registry))[name]  # Registry.get prints and falls back to NAME_basicsr
    parameters = inspect.signature(cls).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in kwargs:
            if key not in parameters:
                known = sorted(parameters)
                raise OptionError(f"{where}: unknown key '{key}'.{did_you_mean(key, known)} '{name}' knows {known}.")
    for key, parameter in parameters.items():
        variable = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is parameter.empty and not variable and key not in kwargs:
            raise OptionError(f"{where}: '{name}' needs the key '{key}'.")
    return cls, kwargs


def build_part(registry: Registry, section: object, where: str) -> Any:
    """Build the part that a YAML section describes; OptionError as :func:`check_section`, or as it refuses a value."""
    cls, kwargs = check_section(registry, section, where)
    try:
        return cls(**kwargs)
    except OptionError as error:
        raise type(error)(f"{where}: {error}") from error
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, (TypeError, ValueError)) else f"{type(error).__name__}: "
        raise OptionError(f"{where}: {kind}{error}{own_place(error)}") from error


def ask_part(part: str, ask: Callable[[list[T]], R], items: list[T], names: Sequence[str]) -> R:
    """Ask a part about a batch; what goes wrong in its code is a DistillError that names the item, found one by one."""
    try:
        return ask(items)
    except UniRainError:
        raise
    except (Exception, SystemExit) as error:
        together = error
    for item, name in zip(items, names, strict=True):
        with own_code(part, f"'{name}'", DistillError, always=True):
            ask([item])
    with own_code(part, f"'{names[0]}' to '{names[-1]}' together", DistillError, always=True):
        raise together
