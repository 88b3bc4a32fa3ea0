"""Installation of unirain_plugin: the package, its option files, and the hook for BasicSR's stock runners."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT = Path(__file__).parent
HOOK_FILE = "unirain_plugin_autoregister.pth"
# Python's site module runs a .pth line at every start, so the line only puts a finder in place: nothing is imported,
# and the code below not even compiled, before somebody imports basicsr; no other import ever reaches the package.
ON_IMPORT_OF_BASICSR = """
import sys
try:
    from unirain_plugin.autoregister import find_spec
    spec = find_spec("basicsr")
except Exception as error:
    sys.stderr.write(f"warning: unirain_plugin is not registered in BasicSR, its hook failed: {error!r}\\n")
    spec = None
"""
HOOK = (
    "import sys; sys.meta_path.insert(0, type('UniRainAutoregister', (), {'find_spec': staticmethod("
    f"lambda name, *_: exec({ON_IMPORT_OF_BASICSR!r}, scope := {{}}) or scope['spec'] if name == 'basicsr' else None"
    ")}))\n"
)


def write_hook(folder: Path) -> None:
    """Write the .pth file that site runs."""
    (folder / HOOK_FILE).write_text(HOOK, encoding="utf-8")


class BuildPy(build_py):
    """Also puts the hook beside the package and the option files inside it."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write_hook(Path(self.build_lib))
            shutil.copytree(
                ROOT / "options",
                Path(self.build_lib, "unirain_plugin", "_options"),
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns("results"),
            )  # figures of a study, no options


class EditableWheel(editable_wheel):
    """Also ships the hook; setuptools has no public way to add a .pth to an editable install."""

    def _install_namespaces(self, installation_dir: str, pth_prefix: str) -> None:
        super()._install_namespaces(installation_dir, pth_prefix)
        write_hook(Path(installation_dir))


version: dict[str, str] = {}
exec((ROOT / "unirain_plugin" / "version.py").read_text(encoding="utf-8"), version)

EXTRAS = {
    "test": ["pytest>=8.2", "pytest-xdist>=3.8", "ruff>=0.17"],
    "distill": ["faiss-cpu>=1.15", "open_clip_torch>=3.3"],
    "vlm": ["openai>=3.54"],
    "sentence": ["sentence-transformers>=6.2"],
    "report": ["jinja2>=3.1"],
    "ray": ["ray[data]>=2.60"],
    "speed": ["simplejpeg>=1.9", "isal>=1.9"],
    "export": ["onnx>=1.23", "onnxruntime>=1.31", "onnxscript>=0.7", "openvino>=2026.4"],  # the last for benchmarks
    "app": ["gradio>=6.31"],
    "heif": ["pillow-heif>=1.0"],
    "compare": ["pyiqa>=0.1.16"],  # PolyForm Noncommercial since 0.1.16: not for commercial use
    "lpips": ["lpips>=0.1.4"],  # BSD: LPIPS without pyiqa
    "spandrel": ["spandrel>=0.4.2"],
}

setup(
    name="unirain_plugin",
    version=version["__version__"],
    description="UniRain (CVPR 2026) for the BasicSR toolbox: one network against four types of rain",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["unirain_plugin", "unirain_plugin.*"]),
    package_data={"unirain_plugin": ["**/*.yml", "**/*.json", "**/*.j2", "weights/*", "docs/*.md", "assets/*.jpg"]},
    install_requires=[
        "basicsr>=1.4.2",
        "torch>=2.11",
        "torchvision>=0.26",
        "matplotlib>=3.8",
        "mmengine>=0.10.4",
        "lmdb>=2.1",  # CVE-2019-16224 to 16228 are mended
        "numpy>=1.26",
        "av>=18,<19",  # 19 drops metadata_errors of its open()
        "opencv-python>=4.9",
        "pillow>=11.3",
        "pyyaml>=6.0",
        "safetensors>=0.4",
        "scikit-image>=0.22",
        "tifffile>=2023.4",
        "tqdm>=4.66",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["unirain = unirain_plugin.__main__:main"]},
    cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel},
)
