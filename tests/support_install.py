"""The project as a stranger has it: built as a wheel, unpacked, and run from a folder that is not the project's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tests.support_cli import TINY, Result

ROOT = Path(__file__).parents[1]
SOURCES = ("harness", "methods", "conf", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"


def install(site: Path, scratch: Path) -> None:
    """Build the wheel in a copy of the sources (building leaves files behind) and unpack it into ``site``."""
    scratch.mkdir(parents=True)
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, scratch / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, scratch / name)
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(scratch)], cwd=scratch, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(scratch / built.stdout.strip().splitlines()[-1]) as wheel:
        wheel.extractall(site)


class Installed:
    """Runs ``unlearn`` from ``site`` in a process of its own, with ``folder`` as the current directory."""

    def __init__(self, site: Path | None, folder: Path, store: Path) -> None:
        """site: where the wheel was unpacked; None for the installation that the tests run in (an editable one)."""
        self.site, self.folder, self.store = site, folder, store
        self.plugins = folder / "installed plug-ins"

    def package(self, name: str, files: Mapping[str, str], entry_points: str) -> None:
        """Install a package of somebody else's: modules by file name, and what ``entry_points.txt`` says."""
        for file, text in files.items():
            path = self.plugins / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        info = self.plugins / f"{name}-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entry_points)

    def __call__(self, *arguments: str, out: str = "out", **environment: str) -> Result:
        search = os.pathsep.join(map(str, [*([self.site] if self.site else []), self.plugins]))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
        done = subprocess.run(
            [sys.executable, "-P", "-c", "from harness.command.cli import main; main()", *arguments],
            cwd=self.folder,
            env={**kept, "PYTHONPATH": search, "UNLEARN_STORE": str(self.store), **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Result(done.returncode, done.stdout, done.stderr, self.folder / out)

    def run(self, *arguments: str, out: str = "out", **environment: str) -> Result:
        """A tiny run into ``out``."""
        return self(*TINY, *arguments, f"out={out}", out=out, **environment)
