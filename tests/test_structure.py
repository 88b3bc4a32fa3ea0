"""The house rules that a machine can hold: import direction, option files, README."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unirain_plugin"
LEAVES = ("archs", "losses", "data")
OPTION_FILES = sorted((ROOT / "options").rglob("*.yml"))


def imports_of(path: Path) -> set[str]:
    """Every module of ours that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {name for name in found if name.startswith("unirain_plugin")}


def forbidden_for(path: Path) -> tuple[str, ...]:
    top = path.relative_to(PACKAGE).parts[0]
    everything_above = ("models", "train", "test", "distill", "compare", "benchmarks", "demo")
    if top in LEAVES:
        return tuple(leaf for leaf in LEAVES if leaf != top) + everything_above
    if top == "models":  # networks, losses and data sets are reached through the toolbox's build functions
        return ("archs", "losses", "train", "test", "distill", "compare", "benchmarks", "demo")
    if top == "distill":
        return ("archs", "losses", "models", "train", "test", "demo")
    return ()


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    for name in imports_of(path):
        for part in forbidden_for(path):
            forbidden = f"unirain_plugin.{part}"
            assert name != forbidden and not name.startswith(f"{forbidden}."), f"{path} imports {name}"


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_option_files_are_named_after_their_experiment(path):
    assert yaml.safe_load(path.read_text())["name"] == path.stem


def test_files_the_readme_names_exist():
    text = (ROOT / "README.md").read_text()
    for name in set(re.findall(r"\b(?:scripts|options|tests|unirain_plugin)/[\w./-]+\.(?:py|yml|sh|png)", text)):
        assert (ROOT / name).is_file(), name
