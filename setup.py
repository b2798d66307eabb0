"""Build of EvoStreaming: the rooms of the house become one package, csrc becomes its compiled modules.

The page allocator (`_pages`) is plain C++ bound with pybind11 and knows no torch, so it builds everywhere in seconds.
"""

from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup

ROOT = Path(__file__).parent
VERSION = (ROOT / "evostreaming" / "VERSION").read_text().strip()
ROOMS = ["engine", "kernels", "evolve", "eval", "serve", "tiny"]


def room_packages():
    """Map every folder that holds an `__init__.py` below a room to `evostreaming.<room>...`."""
    mapping = {"evostreaming": "evostreaming"}
    for room in ROOMS:
        for init in sorted((ROOT / room).rglob("__init__.py")):
            folder = init.parent.relative_to(ROOT)
            mapping["evostreaming." + ".".join(folder.parts)] = str(folder)
    return mapping


packages = room_packages()
setup(
    name="evostreaming",
    version=VERSION,
    description="A frame-by-frame engine that turns any open VideoLLM into a live assistant",
    python_requires=">=3.11",
    packages=sorted(packages),
    package_dir=packages,
    package_data={"evostreaming": ["VERSION", "assets/**/*"]},
    ext_modules=[
        Pybind11Extension("evostreaming._pages", ["csrc/page_allocator_binding.cpp"], include_dirs=["csrc"], cxx_std=17),
    ],
    cmdclass={"build_ext": build_ext},
    install_requires=[
        "torch>=2.11",
        "transformers>=5.17",
        "tokenizers>=0.22",
        "safetensors>=0.6",
        "av>=18.1",
        "numpy>=2.0",
        "pillow>=11",
        "typer>=0.20",
        "rich>=14",
        "matplotlib>=3.9",
    ],
    extras_require={
        "test": ["pytest>=9", "pytest-timeout", "pytest-xdist", "hypothesis", "triton", "ruff"],
    },
    entry_points={"console_scripts": ["evostreaming=evostreaming.cli:main"]},
)
