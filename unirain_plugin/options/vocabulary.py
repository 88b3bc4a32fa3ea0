"""Which keys a class understands: read from the class itself, so that nothing has to be listed twice."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import dataclass, field
from functools import lru_cache

from unirain_plugin.options.problems import KeyPath

_ALWAYS = ("__init__", "__getitem__")
_IN_TRAINING = ("init_training_settings", "setup_optimizers", "setup_schedulers")
"""Methods that run in every run, or in every training, so that what they read without asking must be there."""


@dataclass(frozen=True)
class Signature:
    """The keyword arguments of a constructor or function.

    Attributes:
        defaults: Argument → default value; ``inspect.Parameter.empty`` where it has to be given.
        open: Whether further names are swallowed by ``**kwargs``.
    """

    defaults: dict[str, object]
    open: bool

    @property
    def required(self) -> tuple[str, ...]:
        """The arguments without a default."""
        return tuple(name for name, default in self.defaults.items() if default is inspect.Parameter.empty)


def signature_of(obj: object, skip: tuple[str, ...] = ()) -> Signature:
    """The keyword arguments that ``obj`` takes, without those that the toolbox passes itself (``skip``)."""
    defaults, is_open = {}, False
    for name, parameter in inspect.signature(obj).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            is_open = True
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL and name not in skip:
            defaults[name] = parameter.default
    return Signature(defaults, is_open)


@dataclass
class Reads:
    """The option keys that a class reads, as paths from the dict that its constructor gets.

    Attributes:
        paths: Every key path that the source mentions.
        required: Those read in every run by ``opt['key']`` and nowhere asked for first.
        required_in_training: Those read so in methods that only a training calls, or inside ``if … 'train'`` blocks.
    """

    paths: set[KeyPath] = field(default_factory=set)
    required: set[KeyPath] = field(default_factory=set)
    required_in_training: set[KeyPath] = field(default_factory=set)

    def keys(self, section: KeyPath = ()) -> set[str]:
        """The names read directly below ``section``."""
        depth = len(section)
        return {str(path[depth]) for path in self.paths if len(path) > depth and path[:depth] == section}


@lru_cache(maxsize=256)
def reads_of(cls: type) -> Reads | None:
    """Read a model's or data set's option keys from its source and its bases'; None if there is no source.

    Understood are ``opt['a']['b']``, ``self.opt``, ``.get('a')``, ``.pop('a')``, ``'a' in opt``, and names such as
    ``train_opt = self.opt['train']``. Keys read by helper functions are not seen: a class that does so names them in
    class attributes (``OPTIONS``, ``TRAIN_OPTIONS``, ``VAL_OPTIONS``).
    """
    reads, asked = Reads(), set()
    superseded: set[str] = set()
    for base in cls.__mro__[:-1]:
        if base.__module__.split(".")[0] in ("torch", "typing", "abc"):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            return None
        for method in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            certain = method.name in _ALWAYS + _IN_TRAINING and method.name not in superseded
            visitor = _Visitor(certain, training=method.name in _IN_TRAINING)
            visitor.read(method)
            reads.paths |= visitor.mentioned
            reads.required |= visitor.certain_paths
            reads.required_in_training |= visitor.training_paths
            asked |= visitor.asked
            if not _calls_super(method):
                superseded.add(method.name)
    reads.required -= asked
    reads.required_in_training -= asked | reads.required
    return reads


def names_compared(cls: type, method: str, variable: str) -> set[str]:
    """The names that a method compares ``variable`` with: ``{'Adam'}`` for the optimisers of the toolbox's models.

    The method is followed to the base classes as long as it calls ``super``. An empty set says that the method
    decides in another way.
    """
    names: set[str] = set()
    for function in (vars(base)[method] for base in cls.__mro__ if method in vars(base)):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            return set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Compare) and isinstance(node.left, ast.Name) and node.left.id == variable:
                names |= {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
        if not _calls_super(tree):
            break
    return names


def _calls_super(tree: ast.AST) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "super" for node in ast.walk(tree))


class _Visitor(ast.NodeVisitor):
    """Collects the key paths of one method, told apart by whether reading them is certain."""

    def __init__(self, certain: bool, training: bool) -> None:
        self.certain = certain
        self.training = training
        self.aliases: dict[str, KeyPath] = {"opt": (), "train_opt": ("train",)}
        self.mentioned: set[KeyPath] = set()
        self.certain_paths: set[KeyPath] = set()
        self.training_paths: set[KeyPath] = set()
        self.asked: set[KeyPath] = set()

    def read(self, method: ast.FunctionDef) -> None:
        for statement in method.body:
            self.visit(statement)

    def path(self, node: ast.AST) -> KeyPath | None:
        """The key path that an expression stands for."""
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
        if name is not None:
            return self.aliases.get(name)
        if isinstance(node, ast.Subscript):
            return self._below(node.value, node.slice)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            return None
        return self._below(node.func.value, node.args[0]) if node.func.attr in ("get", "pop", "setdefault") else None

    def _below(self, parent: ast.AST, key: ast.AST) -> KeyPath | None:
        path = self.path(parent)
        if path is None or not isinstance(key, ast.Constant) or not isinstance(key.value, str):
            return None
        return (*path, key.value)

    def _mention(self, path: KeyPath | None, asked: bool) -> None:
        if not path:
            return
        self.mentioned.add(path)
        if asked:
            self.asked.add(path)
        elif self.certain:
            (self.training_paths if self.training else self.certain_paths).add(path)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        path = self.path(node)
        if path and not isinstance(node.ctx, ast.Load):  # written by the class itself, so no user's key
            self.asked.add(path)
        else:
            self._mention(path, asked=False)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        attribute = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        self._mention(self.path(node), asked=attribute != "pop" or len(node.args) > 1)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if isinstance(node.ops[0], (ast.In, ast.NotIn)):
            self._mention(self._below(node.comparators[0], node.left), asked=True)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        path = self.path(node.value)
        self.generic_visit(node)
        target = node.targets[0]
        name = target.id if isinstance(target, ast.Name) else target.attr if isinstance(target, ast.Attribute) else None
        if path and name is not None and len(node.targets) == 1:
            self.aliases[name] = path

    def visit_If(self, node: ast.If) -> None:
        self.visit(node.test)
        certain, training = self.certain, self.training
        words = {c.value for c in ast.walk(node.test) if isinstance(c, ast.Constant)}
        if words == {"phase", "train"} and not isinstance(node.test, ast.BoolOp):
            self.training = True
        else:
            self.certain = False
        for statement in node.body:
            self.visit(statement)
        self.certain, self.training = False, training
        for statement in node.orelse:
            self.visit(statement)
        self.certain = certain

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit(node.test)
        self._uncertain(node.body, node.orelse)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self.visit(node.values[0])
        self._uncertain(*node.values[1:])

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._uncertain(*node.body, *node.orelse)

    def visit_While(self, node: ast.While) -> None:
        self._uncertain(node.test, *node.body, *node.orelse)

    def visit_Try(self, node: ast.Try) -> None:
        handlers = [statement for handler in node.handlers for statement in handler.body]
        self._uncertain(*node.body, *handlers, *node.orelse, *node.finalbody)

    def _uncertain(self, *nodes: ast.AST) -> None:
        certain, self.certain = self.certain, False
        for node in nodes:
            self.visit(node)
        self.certain = certain
