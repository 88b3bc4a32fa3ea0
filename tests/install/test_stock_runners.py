"""Stock BasicSR runners know our types once the plugin is installed, as a wheel or editable; others are unharmed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
import yaml
from programs import ENVIRONMENT
from tiny_run import tiny_train_options

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_paths()["purelib"])
ALONE = pytest.mark.skipif(sys.version_info >= (3, 12), reason="BasicSR 1.4.2 alone needs distutils")


class Environment:
    """A virtual environment that borrows the dependencies of this one, has its own basicsr, and our plugin."""

    def __init__(self, folder: Path, install: list[str]) -> None:
        self.folder = folder
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        self.site = next(folder.glob("lib/python3*/site-packages"))
        # A path in a .pth file is searched last, and the .pth files found there are not run: our own is not seen.
        (self.site / "borrowed.pth").write_text(f"{SITE}\n")
        shutil.copytree(basicsr_folder(), self.site / "basicsr")
        if install:
            command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "-q", "--no-deps"]
            subprocess.run([*command, "--no-index", "--no-build-isolation", *install], check=True)

    def run(self, *args: object, cwd: Path, **env: str) -> subprocess.CompletedProcess:
        command, env = [self.python, *map(str, args)], {**os.environ, **ENVIRONMENT, **env}
        return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def basicsr_folder() -> Path:
    from importlib.util import find_spec

    return Path(find_spec("basicsr").submodule_search_locations[0])


def copy_of_sources(folder: Path) -> Path:
    for name in ("unirain_plugin", "options"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "MANIFEST.in", "LICENSE", "CHANGELOG.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    sources = copy_of_sources(tmp_path_factory.mktemp("sources"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    subprocess.run(command, cwd=sources, check=True)
    return next((sources / "dist").glob("*.whl"))


@pytest.fixture(scope="module")
def wheel_environment(tmp_path_factory, wheel) -> Environment:
    return Environment(tmp_path_factory.mktemp("venv_wheel"), [str(wheel)])


@pytest.fixture(scope="module")
def editable_environment(tmp_path_factory) -> Environment:
    sources = copy_of_sources(tmp_path_factory.mktemp("editable"))
    return Environment(tmp_path_factory.mktemp("venv_editable"), ["-e", str(sources)])


def write_options(folder: Path, rainrag_root: Path) -> Path:
    path = folder / "tiny.yml"
    path.write_text(yaml.safe_dump(tiny_train_options(rainrag_root, name="tiny")))
    return path


def assert_trained(result: subprocess.CompletedProcess, root: Path) -> None:
    assert result.returncode == 0, result.stdout + result.stderr
    assert (root / "experiments" / "tiny" / "models" / "net_g_4.pth").is_file(), result.stdout


def test_wheel_carries_the_option_files_and_the_hook(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "unirain_plugin_autoregister.pth" in names
    shipped = {name.removeprefix("unirain_plugin/_options/") for name in names if "/_options/" in name}
    assert shipped == {str(path.relative_to(ROOT / "options")) for path in (ROOT / "options").rglob("*.yml")}
    assert not any(name.startswith(("tests", "options", "scripts")) for name in names)


def test_stock_runner_of_the_pip_package_trains(editable_environment, rainrag_root, tmp_path):
    options = write_options(tmp_path, rainrag_root)
    result = editable_environment.run("-m", "basicsr.train", "-opt", options, cwd=tmp_path)
    assert_trained(result, editable_environment.site)  # where the stock pip runner writes


def test_stock_runners_of_a_checkout_train_and_test(wheel_environment, rainrag_root, tmp_path):
    checkout = tmp_path / "BasicSR"
    shutil.copytree(basicsr_folder(), checkout / "basicsr")
    options = write_options(tmp_path, rainrag_root)
    result = wheel_environment.run("basicsr/train.py", "-opt", options, cwd=checkout, PYTHONPATH=".")
    assert_trained(result, checkout)
    opt = yaml.safe_load(options.read_text())
    opt |= {"name": "tiny_test", "datasets": {"test": {**opt["datasets"]["val"], "name": "held-out"}}}
    opt["path"]["pretrain_network_g"] = str(checkout / "experiments/tiny/models/net_g_4.pth")
    opt["val"] |= {"save_img": True, "suffix": "restored"}
    options.write_text(yaml.safe_dump({key: opt[key] for key in opt if key not in ("train", "logger")}))
    result = wheel_environment.run("basicsr/test.py", "-opt", options, cwd=checkout, PYTHONPATH=".")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (checkout / "results/tiny_test/visualization/held-out/drs/000_restored.png").is_file()
    assert "nrd" in result.stderr and "# psnr: " in result.stderr  # its log


@ALONE
def test_hook_can_be_switched_off(wheel_environment, tmp_path):
    code = "import sys, yaml, xml.dom; print('unirain_plugin' in sys.modules, 'torch' in sys.modules)"
    assert wheel_environment.run("-c", code, cwd=tmp_path).stdout.split() == ["False", "False"]
    code = """
import torchvision.transforms, sys
sys.modules["torchvision.transforms.functional_tensor"] = torchvision.transforms.functional
import basicsr
from basicsr.utils.registry import ARCH_REGISTRY
print("EDSR" in ARCH_REGISTRY, "UniRain" in ARCH_REGISTRY)
"""  # that it is there otherwise is what the stock runners' training shows
    assert wheel_environment.run("-c", code, cwd=tmp_path, UNIRAIN_AUTOREGISTER="0").stdout.split() == ["True", "False"]


@ALONE
def test_broken_plugin_harms_no_other_program(wheel, tmp_path):
    environment = Environment(tmp_path / "venv", [str(wheel)])
    package = environment.site / "unirain_plugin"
    for damaged, text in (
        (package / "autoregister.py", "def broken(:\n"),
        (package / "losses/pixel_losses.py", "raise RuntimeError('planted')\n"),
        (None, ""),  # the package is gone
    ):
        if damaged is None:
            shutil.rmtree(package)
        else:
            whole = damaged.read_text()
            damaged.write_text(text)
        others = "import json, sys, torchvision.transforms.functional as f; sys.stderr.write('fine'); "
        alias = "sys.modules[f.__name__ + '_tensor'] = f; "
        result = environment.run("-c", others + alias + "import basicsr; print(basicsr.__version__)", cwd=tmp_path)
        assert result.returncode == 0 and result.stderr.startswith("fine"), result.stderr
        assert "not registered" in result.stderr or "could not be registered" in result.stderr
        if damaged is not None:
            damaged.write_text(whole)


def test_every_command_of_the_wheel_is_there(wheel_environment, tmp_path):
    result = wheel_environment.run("-m", "unirain_plugin", "--help", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for command in ("train", "test", "synthesize-rain", "demo"):
        assert f"  {command} " in result.stdout
        help_text = wheel_environment.run("-m", "unirain_plugin", command, "--help", cwd=tmp_path)
        assert help_text.returncode == 0 and "usage" in help_text.stdout, help_text.stderr
    wrong = wheel_environment.run("-m", "unirain_plugin", "trian", cwd=tmp_path)
    assert wrong.returncode == 2 and "Did you mean 'train'?" in wrong.stderr
