"""Put the settings into a wheel: `configs/` as `training/configs/`, where targets.py looks first.

All else about the package is in pyproject.toml. setuptools can map a folder to a package there, but
an editable install is then no path of sys.path, and our packages are found after all of those: a
file `losses.py` in the folder of one's own task would hide the project's.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
    """Copy the packages, and the settings into one of them; an editable install copies nothing."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "training", "configs")
            shutil.copytree("configs", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildWithConfigs})
