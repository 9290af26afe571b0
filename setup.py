"""Metadata of the package: what it needs, as ranges (requirements.txt pins what is tested)."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "vision": ["torchvision>=0.19"],
    "tasks": ["matplotlib>=3.8", "scikit-learn>=1.4", "tqdm>=4.66"],
    "trainer": [
        "matplotlib>=3.8",
        "omegaconf>=2.3",
        "pydantic>=2.6",
        "pyyaml>=6",
        "scikit-learn>=1.4",
        "tensorboard>=2.16",
        "torchmetrics>=1.3",
        "tqdm>=4.66",
    ],
    "dev": ["mypy>=1.10", "pytest>=8", "pytest-xdist>=3.5", "ruff>=0.6", "types-PyYAML>=6"],
}

setup(
    name="torch-dni",
    version="0.1.0",
    description="Decoupled neural interfaces: train PyTorch networks with synthetic gradients.",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The dni authors",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["dni", "dni.*"]),
    package_data={"dni": ["py.typed"]},
    install_requires=["numpy>=1.26", "torch>=2.4"],
    entry_points={"console_scripts": ["dni = dni.trainer.cli:main"]},
    extras_require=EXTRAS,
    keywords=["pytorch", "synthetic gradients", "decoupled neural interfaces", "deep learning"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
