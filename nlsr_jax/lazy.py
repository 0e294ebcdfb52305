"""Packages that import their names on first use."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazily(package: str, names_of: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package.

    Args:
      package: its ``__name__``.
      names_of: by full module name, the names that the package re-exports, separated by spaces. The package's own
        modules are found without an entry.
    """
    module_of = {name: module for module, names in names_of.items() for name in names.split()}

    def find(name: str) -> Any:
        if name in module_of:
            value = getattr(importlib.import_module(module_of[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        if name.isidentifier() and not name.startswith("_"):
            module = f"{package}.{name}"
            try:
                return importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name != module:
                    raise
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted({*vars(sys.modules[package]), *module_of})
