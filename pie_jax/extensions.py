"""Registries that other packages can add to."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from pie_jax.errors import InputError

T = TypeVar("T")


class Registry(dict[str, T]):
    """Things by name: this package's own, and those of other packages.

    Another package adds to one by assigning to it, or by an entry point of the registry's `group`,
    whose name is the thing's and which is loaded when that name is first asked for. Raises
    `InputError` where a package cannot be loaded.
    """

    def __init__(self, group: str, own: Mapping[str, T]):
        super().__init__(own)
        self.group = group

    def __missing__(self, name: str) -> T:
        for point in entry_points(group=self.group, name=name):
            try:
                self[name] = point.load()
            except Exception as error:
                raise InputError(
                    f"`{name}` of the package {point.dist.name if point.dist else point.value} "
                    f"cannot be loaded ({type(error).__name__}: {error}); mend or uninstall it."
                ) from error
            return self[name]
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        try:
            return isinstance(name, str) and self[name] is not None
        except KeyError:
            return False
