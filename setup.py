"""The package map; everything else stands in pyproject.toml.

`kernels/` lies beside `tinygrad_cr/` and installs as `tinygrad_cr.kernels`. The list is written out because
`find_packages` would also publish a stray top-level `kernels`.
"""

from setuptools import setup

setup(
    packages=[
        "tinygrad_cr",
        "tinygrad_cr.cli",
        "tinygrad_cr.data",
        "tinygrad_cr.doctor",
        "tinygrad_cr.ensemble",
        "tinygrad_cr.kernels",
        "tinygrad_cr.kernels.cpu",
        "tinygrad_cr.kernels.gpu",
        "tinygrad_cr.nn",
        "tinygrad_cr.plots",
        "tinygrad_cr.report",
        "tinygrad_cr.schedules",
        "tinygrad_cr.search",
        "tinygrad_cr.train",
        "tinygrad_cr.train.monitors",
    ],
    package_dir={"tinygrad_cr": "tinygrad_cr", "tinygrad_cr.kernels": "kernels"},
)
