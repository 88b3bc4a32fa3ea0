"""The house rules that a machine can hold: import direction, option files, README and manual."""

import ast
import re
import sys
from pathlib import Path

import yaml

from unirain_plugin.toolbox import prepare_import

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "unirain_plugin"
ALLOWED = {
    "version": "",
    "errors": "",
    "toolbox": "",
    "registration": "toolbox",
    "__init__": "version registration",
    "autoregister": "__init__ toolbox",
    "rain_types": "errors",
    "support": "errors version",
    "__main__": "errors version support",
    "metrics": "errors toolbox support",
    "checkpoints": "errors support",
    "archs": "errors toolbox support checkpoints",
    "losses": "errors toolbox rain_types support",
    "data": "errors toolbox rain_types support",
    "options": "__init__ errors toolbox rain_types support losses data",
    "preparation": "__main__ errors rain_types support data options",
    "rain": "__main__ errors rain_types support data",
    "models": "errors toolbox rain_types support metrics checkpoints options",
    "runs": "__init__ errors toolbox rain_types support checkpoints data options models",
    "train": "__main__ toolbox support runs",
    "test": "__main__ runs",
    "inference": "__init__ __main__ version errors toolbox support checkpoints archs data options",
    "spandrel_support": "errors checkpoints inference",
    "distill": "__main__ errors toolbox rain_types support data options",
    "compare": "__init__ version errors toolbox rain_types support metrics checkpoints data options rain inference",
    "app": "errors toolbox support checkpoints data inference",
    "study": "__init__ __main__ errors toolbox rain_types support metrics checkpoints archs losses data options "
    "preparation rain models runs inference distill compare",
}
"""Room → the rooms that it may import. Each stands below those that it may import, so there is no circle."""


def imports_of(path: Path, package: Path) -> set[str]:
    """Every module of ours that a file imports, inside functions too, as a path from the package: ``data/names``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = path.relative_to(package.parent).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == package.name}


def wrong_imports(package: Path, allowed: dict[str, str]) -> list[str]:
    """``file imports room`` for every import of ours that the table does not allow."""
    files = sorted(package.rglob("*.py"))
    rooms = {path: path.relative_to(package).parts[0].removesuffix(".py") for path in files}
    wrong = []
    for path, room in rooms.items():
        used = {name.split(".")[1] if "." in name else "__init__" for name in imports_of(path, package)}
        used = {name if name in rooms.values() else "__init__" for name in used} - {room}
        wrong += [f"{path.relative_to(package)} imports {name}" for name in sorted(used - set(allowed[room].split()))]
    return wrong


def test_rooms_import_only_what_the_table_allows_which_has_no_circle():
    assert set(ALLOWED) == {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if is_room(path)}
    assert wrong_imports(PACKAGE, ALLOWED) == []
    order = list(ALLOWED)
    assert [(a, b) for a in order for b in ALLOWED[a].split() if order.index(b) >= order.index(a)] == []


def is_room(path: Path) -> bool:
    return path.suffix == ".py" or (path / "__init__.py").is_file()


def test_an_import_against_the_table_is_found(tmp_path):
    package = tmp_path / "plugin"
    for room in ("archs", "losses/parts", "data", "distill"):
        (package / room).mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "errors.py").touch()
    (package / "archs/a.py").write_text("from plugin import losses\nimport plugin.errors\n")
    (package / "losses/parts/b.py").write_text("def late():\n    from ...data.names import tidy\n    from . import c\n")
    (package / "data/c.py").write_text("import plugin.distill.parts as parts\nimport plugin\n")
    (package / "distill/d.py").write_text("from plugin.data import names\nfrom plugin import errors\nimport archs\n")
    allowed = dict.fromkeys(("__init__", "errors", "losses", "data"), "")
    allowed |= {"archs": "errors", "distill": "errors data"}
    found = ["archs/a.py imports losses", "data/c.py imports __init__", "data/c.py imports distill"]
    assert wrong_imports(package, allowed) == [*found, "losses/parts/b.py imports data"]


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
    assert {name: count for name, count in where.items() if count} == {"support/files.py": 2}
    planted = ["import os\nos.replace(a, b)", "from os import replace", "path.replace(target)", "shutil.move(a, b)"]
    assert all(map(renamings_of, planted)) and not renamings_of("text.replace(a, b); replace(record, lq=1)")


ONLY_IN = {
    r"\byaml\.(compose|load|safe_load|full_load|parse|SafeLoader)\(": ("options/yaml_loader.py", "runs/run.py"),
    r"\bget_close_matches\(": ("errors.py",),
    r"\b(ProcessPoolExecutor|Pool)\(": ("support/processes.py",),
}
"""Pattern → the only files that may hold it: one YAML loader (the runner passes the toolbox a checked one), one
spelling helper, one way to make a pool of processes."""


def misplaced(package: Path, rules: dict[str, tuple[str, ...]]) -> set[str]:
    """``file: pattern`` where a line of code holds what only other files may."""
    found = set()
    for path in package.rglob("*.py"):
        code = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(), flags=re.DOTALL)
        name = str(path.relative_to(package))
        found |= {f"{name}: {rule}" for rule, places in rules.items() if name not in places and re.search(rule, code)}
    return found


def test_yaml_spelling_and_pools_have_one_place(tmp_path):
    assert misplaced(PACKAGE, ONLY_IN) == set()
    (tmp_path / "a.py").write_text('"""yaml.load(x)"""\nimport yaml\nyaml.safe_load(x)\n')
    assert misplaced(tmp_path, ONLY_IN) == {f"a.py: {next(iter(ONLY_IN))}"}


DISTRIBUTIONS = {
    "PIL": "pillow", "cv2": "opencv-python", "faiss": "faiss-cpu", "open_clip": "open_clip_torch",
    "pillow_heif": "pillow-heif", "skimage": "scikit-image", "yaml": "pyyaml",
}  # fmt: skip
"""Module → package, where the names differ."""


def undeclared(package: Path, declared: set[str]) -> set[str]:
    """Packages that are imported and not declared."""
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module)
    roots = {name.split(".")[0] for name in found} - sys.stdlib_module_names - {package.name}
    return {DISTRIBUTIONS.get(name, name) for name in roots} - declared


def test_every_import_is_declared(tmp_path):
    requirements = re.findall(r'"([\w.-]+)(?:\[\w+\])?>=[\d.]+(?:,<\d+)?"', (ROOT / "setup.py").read_text())
    # albumentations: the manual's page of one benchmark names it.
    assert undeclared(PACKAGE, {*requirements, "albumentations"}) == set()
    package = tmp_path / "plugin"
    package.mkdir()
    (package / "a.py").write_text("import os, plugin.b\ndef late():\n    from PIL import Image\n    import av.video\n")
    assert undeclared(package, {"numpy"}) == {"pillow", "av"}


def test_option_files_are_named_after_their_experiment_and_read_by_the_toolbox_as_by_us():
    names = {path: yaml.safe_load(path.read_text())["name"] for path in (ROOT / "options").rglob("*.yml")}
    assert names and {path for path, name in names.items() if name != path.stem} == set()
    prepare_import()  # its loader knows no merge keys (``<<``), for example
    from basicsr.utils.options import ordered_yaml

    files = [path for folder in ("train", "test") for path in (ROOT / "options" / folder).rglob("*.yml")]
    for text in map(Path.read_text, files):
        assert yaml.load(text, Loader=ordered_yaml()[0]) == yaml.safe_load(text)


def without_code_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors_of(path: Path) -> set[str]:
    """What GitHub makes of a file's headings: lower case, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.+?) *$", without_code_blocks(path.read_text()), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def leads_nowhere(page: Path, root: Path) -> list[str]:
    """Files and links that a page names and that are not there."""
    text = page.read_text()
    files = re.findall(r"\b(?:scripts|options|tests|unirain_plugin)/[\w./-]+\.(?:py|yml|sh|png)", text)
    wrong = [name for name in files if not (root / name).is_file()]
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code_blocks(text)):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not re.match(r"\w+:", link) and not (target.is_file() and (not anchor or anchor in anchors_of(target))):
            wrong.append(link)
    return wrong


def test_readme_and_manual_name_only_what_is_there_and_its_index_every_page():
    pages = [ROOT / "README.md", *(PACKAGE / "docs").glob("*.md")]
    assert {str(page.relative_to(ROOT)): wrong for page in pages if (wrong := leads_nowhere(page, ROOT))} == {}
    docs = PACKAGE / "docs"
    links = re.findall(r"\]\(([^)]+)\)", (docs / "README.md").read_text())
    assert sorted(links) == sorted(path.name for path in docs.glob("*.md") if path.name != "README.md")


def test_what_a_page_names_wrongly_is_found(tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/there.py").touch()
    (tmp_path / "other.md").write_text("# A title, long\n```\n# no title\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n`scripts/there.py` `scripts/gone.py` [a](other.md#a-title-long) [b](other.md#no-title) [c](gone.md)\n"
        "[d](#here) [e](#away) [f](https://example.org/x)\n```\n[g](code.md) options/gone.yml\n```\n"
    )
    assert leads_nowhere(page, tmp_path) == [
        "scripts/gone.py", "options/gone.yml", "other.md#no-title", "gone.md", "#away",
    ]  # fmt: skip
