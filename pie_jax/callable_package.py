"""Stages whose folder is also their main function: `pie_jax.prune(...)`."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _CallablePackage(ModuleType):
    # Module and name of the function, which is loaded when it is first called.
    _function: tuple[str, str]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module, name = self._function
        return getattr(import_module(module), name)(*args, **kwargs)


def make_callable(package: str, module: str, name: str) -> None:
    """Let calling a package call a function of one of its modules."""
    this = sys.modules[package]
    this.__class__ = _CallablePackage
    this._function = (module, name)  # type: ignore[attr-defined]
