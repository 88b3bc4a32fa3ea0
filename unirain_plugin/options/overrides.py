"""``--force_yml a:b=value`` without exec or eval: values are data, keys must exist or be known."""

import difflib
from collections.abc import Iterable, Mapping, MutableMapping

from unirain_plugin.errors import nearest
from unirain_plugin.options.sections import known_keys
from unirain_plugin.options.toolbox_keys import rule_for
from unirain_plugin.options.yaml_loader import Problems, parse_value
from unirain_plugin.support.spec import KeyPath

_FLAG = "--force_yml"


def set_overrides(opt: MutableMapping, entries: Iterable[str], problems: Problems) -> None:
    """Apply ``section:key=value`` texts in place; the value is everything behind the first ``=``, read as YAML.

    ``problems`` takes the errors and the values' source. An OptionError if a value is not plain YAML.
    """
    for entry in entries:
        keys, equals, value = entry.partition("=")
        path: KeyPath = tuple(key.strip() for key in keys.split(":"))
        source = f"{_FLAG} {entry}"
        if not equals or not all(path):
            problems.errors.append(f"{source}: expected section:key=value, e.g. train:ema_decay=0.999.")
            continue
        where = _find(opt, path, source, problems)
        if where is None:
            continue
        parsed = parse_value(value, path, source)
        old = where.get(path[-1])
        if isinstance(old, Mapping) and parsed is not None and not isinstance(parsed, Mapping):
            text = f"'{_colons(path)}' is a section; name one of its keys: {', '.join(old)}."
            problems.errors.append(f"{source}: {text}")
            continue
        where[path[-1]] = parsed
        problems.lines = {at: line for at, line in problems.lines.items() if at[: len(path)] != path}
        problems.lines[path] = source


def _find(opt: MutableMapping, path: KeyPath, source: str, problems: Problems) -> MutableMapping | None:
    """The section that holds, or may hold, the last key of ``path``."""
    here: object = opt
    for index, key in enumerate(path):
        if not isinstance(here, MutableMapping):
            problems.errors.append(f"{source}: '{_colons(path[:index])}' is no section, so it has no key '{key}'.")
            return None
        last = index == len(path) - 1
        known = known_keys(opt, path[:-1])
        # an open constructor of ours refuses what it does not know
        read = known is not None and (path[-1] in known.keys or (known.own and not known.strict))
        read = read or (len(path) > 1 and rule_for(path) is not None and known is None)
        if key not in here and not (last and read):
            problems.errors.append(f"{source}: there is no key '{_colons(path[: index + 1])}'.{_suggest(opt, path)}")
            return None
        if not last:
            here = here[key]
    return here


def _colons(path: KeyPath) -> str:
    return ":".join(map(str, path))


def _suggest(opt: Mapping, path: KeyPath) -> str:
    """The nearest key path that exists or may be set: first by its last key, wherever it stands, then as a whole."""
    paths = sorted(_paths(opt), key=len)
    ends = [_colons(candidate) for candidate in paths if candidate[-1] == path[-1]]
    if ends:
        closest = max(ends, key=lambda end: difflib.SequenceMatcher(None, _colons(path), end).ratio())
        return f" Did you mean '{closest}'?"
    match = nearest(_colons(path), {_colons(candidate) for candidate in paths})
    if match is None:
        last = nearest(path[-1], {candidate[-1] for candidate in paths})
        match = next((_colons(candidate) for candidate in paths if candidate[-1] == last), None)
    return f" Did you mean '{match}'?" if match else ""


def _paths(opt: Mapping, path: tuple[str, ...] = (), root: Mapping | None = None) -> set[tuple[str, ...]]:
    root = opt if root is None else root
    known = known_keys(root, path)
    found = {(*path, key) for key in (known.keys if known is not None else ())} | {(*path, str(key)) for key in opt}
    for key, value in opt.items():
        if isinstance(value, Mapping):
            found |= _paths(value, (*path, str(key)), root)
    return found
