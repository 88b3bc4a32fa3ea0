"""Installation of unirain_plugin."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
version: dict[str, str] = {}
exec((ROOT / "unirain_plugin" / "version.py").read_text(encoding="utf-8"), version)

setup(
    name="unirain_plugin",
    version=version["__version__"],
    description="UniRain (CVPR 2026) for the BasicSR toolbox: one network against four types of rain",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["unirain_plugin", "unirain_plugin.*"]),
    install_requires=["basicsr>=1.4.2", "torch>=2.4", "torchvision", "mmengine", "lmdb", "opencv-python", "pyyaml"],
    extras_require={"test": ["pytest", "ruff"]},
    entry_points={"console_scripts": ["unirain = unirain_plugin.__main__:main"]},
)
