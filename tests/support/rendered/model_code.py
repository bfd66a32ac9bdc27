"""The modules of a rendered public model, imported here as the model imports them: flat, from one folder."""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType

from dyndet_templates import TEMPLATES

_FOLDERS = [TEMPLATES / "public", TEMPLATES / "queueing"]


@functools.cache
def model_code(name: str) -> ModuleType:
    """A module of the public model that needs only Python. Nothing else here sees it or its neighbours."""
    names = {path.stem for folder in _FOLDERS for path in folder.glob("*.py")}
    before = {each: sys.modules.pop(each) for each in names if each in sys.modules}
    sys.path[:0] = [str(folder) for folder in _FOLDERS]
    try:
        return importlib.import_module(name)
    finally:
        del sys.path[: len(_FOLDERS)]
        for each in names:
            sys.modules.pop(each, None)
        sys.modules.update(before)
