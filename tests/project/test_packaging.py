"""What is installed is what is in the tree, and importing it touches nothing."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = list(dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))))
BUILT = ("pyproject.toml", "README.md", "LICENSE", "kernels", "pie_jax")


@cache
def dependencies() -> str:
    """Return a folder of links to all installed packages but pie_jax, however it is installed."""
    folder = Path(tempfile.mkdtemp(prefix="dependencies-"))
    atexit.register(shutil.rmtree, folder)
    for packages in map(Path, PACKAGES):
        for entry in packages.iterdir():
            link = folder / entry.name
            ours = "pie_jax" in entry.name or entry.name.endswith(".pth")
            if not ours and not link.exists():
                link.symlink_to(entry)
    return str(folder)


def python(code: str, cwd: Path, *arguments: str, path: Path | None = None) -> str:
    """Run code in a fresh interpreter that sees `path` and the dependencies."""
    paths = [*([] if path is None else [str(path)]), dependencies()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-S", "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


def in_tree(folder: Path) -> set[str]:
    """Return every file under pie_jax, links followed, as a wheel would name it."""
    found = set()
    for parent, folders, files in os.walk(folder / "pie_jax", followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found |= {(Path(parent) / name).relative_to(folder).as_posix() for name in files}
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, so that building leaves nothing in the repository."""
    tree = tmp_path_factory.mktemp("sources")
    for name in BUILT:
        source = ROOT / name
        if source.is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tree / name, symlinks=True, ignore=ignore)
        else:
            shutil.copy(source, tree / name)
    return tree


def build(tree: Path, target: Path, hook: str) -> Path:
    """Run a hook of the build backend, as pip does, and return the archive."""
    code = f"import sys; from setuptools.build_meta import {hook}; print({hook}(sys.argv[1]))"
    return target / python(code, tree, str(target)).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tree, tmp_path_factory.mktemp("wheel"), "build_wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel was installed into, without its dependencies."""
    target = tmp_path_factory.mktemp("site") / "packages"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    command += ["--disable-pip-version-check", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return target


def test_wheel_holds_every_file_of_the_package(wheel: Path, tree: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == in_tree(tree)
    kernels = {f"pie_jax/kernels/{path.name}" for path in (ROOT / "kernels").glob("*.py")}
    assert len(kernels) > 1
    assert kernels <= names
    assert "pie_jax/py.typed" in names
    # Nothing but pie_jax reaches the top level.
    assert {name.split("/")[0] for name in names} == {"pie_jax"}


def test_wheel_metadata(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        (info,) = {name.split("/")[0] for name in archive.namelist()} - {"pie_jax"}
        metadata = archive.read(f"{info}/METADATA").decode()
        assert "pie-jax = pie_jax.cli.app:main" in archive.read(f"{info}/entry_points.txt").decode()
        assert archive.read(f"{info}/top_level.txt").decode().split() == ["pie_jax"]
        assert f"{info}/licenses/LICENSE" in archive.namelist()
    assert "Provides-Extra: test" in metadata
    assert "License-Expression: Apache-2.0" in metadata


def test_source_archive_holds_the_kernels_as_files(tree: Path, tmp_path: Path):
    """A wheel built from it needs no link."""
    archive = build(tree, tmp_path, "build_sdist")
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    again = build(unpacked, tmp_path, "build_wheel")
    with zipfile.ZipFile(again) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert names == in_tree(tree)


WHERE = "import pie_jax.kernels as k; print(k.__file__); print(len(k.__all__))"
NO_TOP_LEVEL = "import importlib.util as u; assert u.find_spec('kernels') is None"


def test_installed_wheel_imports_from_an_empty_folder(installed: Path, tmp_path: Path):
    where, names = python(f"{NO_TOP_LEVEL}; {WHERE}", tmp_path, path=installed).splitlines()
    assert Path(where) == installed / "pie_jax" / "kernels" / "__init__.py"
    assert int(names) > 0


def test_editable_install_imports_from_an_empty_folder(tree: Path, tmp_path: Path):
    wheel = build(tree, tmp_path, "build_editable")
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    (tmp_path / "empty").mkdir()
    # Like an interpreter's own site-packages: its .pth files count.
    start = f"import site; site.addsitedir({str(site)!r}); {NO_TOP_LEVEL}; "
    where, names = python(start + WHERE, tmp_path / "empty", path=site).splitlines()
    assert Path(where).resolve() == (tree / "kernels" / "__init__.py").resolve()
    assert int(names) > 0


HEAVY = "jax flax optax orbax transformers huggingface_hub pyarrow torch numpy rich typer"
IMPORT_ALL = """
import importlib, pkgutil, sys
import pie_jax
for found in pkgutil.walk_packages(pie_jax.__path__, "pie_jax."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
from jax._src import xla_bridge
assert not xla_bridge._backends, list(xla_bridge._backends)
assert "torch" not in sys.modules
"""


def test_import_loads_nothing_else(installed: Path, tmp_path: Path):
    code = f"import sys, pie_jax; print(*set({HEAVY.split()!r}) & set(sys.modules))"
    assert python(code, tmp_path, path=installed) == ""


def test_importing_every_module_touches_no_device(installed: Path, tmp_path: Path):
    python(IMPORT_ALL, tmp_path, path=installed)


def test_every_public_name_resolves(installed: Path, tmp_path: Path):
    code = "import pie_jax; [getattr(pie_jax, name) for name in pie_jax.__all__ + dir(pie_jax)]"
    python(code, tmp_path, path=installed)
