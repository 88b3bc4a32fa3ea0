"""The house rules that a machine can hold: import direction, option files, README and manual."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unirain_plugin"
LEAVES = ("archs", "losses", "data")
OPTION_FILES = sorted((ROOT / "options").rglob("*.yml"))
PAGES = [ROOT / "README.md", *sorted((PACKAGE / "docs").glob("*.md"))]
every_page = pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


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


def renamings_of(source: str) -> list[int]:
    """Lines that give a file its name: ``os.replace``, ``shutil.move``, or ``replace`` of a path (one argument)."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            found += [node.lineno for alias in node.names if alias.name in ("replace", "rename", "move")]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            of_a_path = node.func.attr == "replace" and len(node.args) == 1 and not node.keywords
            if of_a_path or (owner, node.func.attr) in (("os", "replace"), ("shutil", "move")):
                found.append(node.lineno)
    return found


def test_files_get_their_names_in_one_module_only():
    where = {str(p.relative_to(PACKAGE)): len(renamings_of(p.read_text())) for p in sorted(PACKAGE.rglob("*.py"))}
    assert {name: count for name, count in where.items() if count} == {"support/files.py": 1}


@pytest.mark.parametrize(
    "planted",
    ["import os\nos.replace(a, b)", "from os import replace", "path.replace(target)", "shutil.move(a, b)"],
)
def test_a_second_renaming_is_found(planted):
    assert renamings_of(planted) and not renamings_of("text.replace(a, b); replace(record, lq=1)")


@pytest.mark.parametrize("path", OPTION_FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_option_files_are_named_after_their_experiment(path):
    assert yaml.safe_load(path.read_text())["name"] == path.stem


@every_page
def test_files_the_readme_names_exist(path):
    names = re.findall(r"\b(?:scripts|options|tests|unirain_plugin)/[\w./-]+\.(?:py|yml|sh|png)", path.read_text())
    for name in set(names):
        assert (ROOT / name).is_file(), name


def without_code_blocks(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors_of(path: Path) -> set[str]:
    """What GitHub makes of a file's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.+?) *$", without_code_blocks(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_of_the_readme_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(path)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.is_file(), link
        assert not anchor or anchor in anchors_of(target), link


def test_index_of_the_manual_names_every_page():
    links = re.findall(r"\]\(([^)]+)\)", (PACKAGE / "docs" / "README.md").read_text())
    assert sorted(links) == sorted(path.name for path in PAGES[1:] if path.name != "README.md")
