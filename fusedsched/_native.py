# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the compiled extension `fusedsched._C`; where it cannot be had, says why and what still works."""

import json
import os
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

_REBUILD = "Build it with: pip install --no-build-isolation . (in the source folder, with g++ installed)."


@cache
def build_info() -> dict[str, Any]:
    """What setup.py wrote down: `torch`, `compiler`, `flags`, `units`; or `missing`, the reason; {} if never built."""
    path = Path(__file__).with_name("_build_info.json")
    return json.loads(path.read_text()) if path.exists() else {}


@cache
def _load() -> tuple[ModuleType | None, str | None]:
    if os.environ.get("FUSEDSCHED_NO_EXTENSION") == "1":
        return None, "FUSEDSCHED_NO_EXTENSION=1 is set"
    info = build_info()
    if "missing" in info:
        return None, f"{info['missing']}. {_REBUILD}"
    import torch  # first: it brings the libraries that the extension is linked to, libgomp among them

    # Another torch has another C++ interface; loading would end in an undefined symbol at best.
    if info and info["torch"] != torch.__version__:
        return None, f"it was built for torch {info['torch']}, this is torch {torch.__version__}. {_REBUILD}"
    try:
        return import_module("fusedsched._C"), None
    except ModuleNotFoundError:
        return None, f"fusedsched._C has not been built. {_REBUILD}"
    except ImportError as error:
        return None, f"fusedsched._C could not be loaded: {error}. {_REBUILD}"


def module() -> ModuleType | None:
    """The extension, or None; never warns. For code that has an equal path in Python."""
    return _load()[0]


def reason() -> str | None:
    """Why there is no extension; None where there is one."""
    return _load()[1]


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def module_or_warn() -> ModuleType | None:
    """As `module()`, and the first time there is none, one RuntimeWarning that says why and what runs instead."""
    if reason() is not None:
        _warn_once(f"fusedsched runs on its slow reference, without the compiled extension: {reason()}")
    return module()
