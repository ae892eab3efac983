"""The code of somebody's own encoder: which files it is, and where in it an error arose."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from itertools import accumulate
from pathlib import Path

from palm_cache.errors import described

NOT_OWN = {*sys.stdlib_module_names, "palm_cache", "torch", "transformers"}
"""Modules whose code is nobody's own, wherever they lie."""

PACKAGES = {"site-packages", "dist-packages"}
"""Folders of what is installed: it has versions, and an encoder an ``IMPLEMENTATION``."""

LIBRARIES = (Path(__file__).parents[2], Path(sysconfig.get_path("stdlib")))
"""Folders in whose files no error of somebody's own code arises."""


def told(error: BaseException) -> str:
    """Return on one line what somebody's own code has raised, and where in it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not _is_library(file):
            return f"{described(error)} ({file.name}, line {frame.lineno}, in {frame.name})"
    return described(error)


def _is_library(file: Path) -> bool:
    return bool(PACKAGES & set(file.parts)) or any(map(file.is_relative_to, LIBRARIES))


def hash_code(module: str) -> str:
    """Return a hash of the files of a module and of all that it imports, at any depth, and is not installed.

    Nothing is imported for it. It is "" where the module has no file, as in a notebook.
    """
    hashes: dict[str, str] = {}
    left = [module]
    while left:
        name = left.pop()
        if name in hashes or (name != module and _is_installed(name.partition(".")[0])):
            continue
        with suppress(ImportError, ValueError, OSError, SyntaxError):  # no module, or none with a source
            spec = _find(name)
            if spec is not None and spec.origin and spec.has_location:
                source = Path(spec.origin).read_bytes()
                hashes[name] = hashlib.sha256(source).hexdigest()
                left += _imported(source, spec)
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest() if hashes else ""


def is_edited(spec: str, recorded: object) -> bool:
    """Tell whether the code of a ``python:`` spec is here and is not what was recorded; none of it is run.

    Nothing is known of a class that its module has from elsewhere.
    """
    named = re.fullmatch(r"python:([\w.]+):(\w+)(:.*)?", spec)
    if named is None:
        return False
    module, name = named[1], named[2]
    sys.path.append(str(Path.cwd()))
    try:
        found = _find(module)
        own = found is not None and found.has_location and _defines(Path(str(found.origin)), name)
        return own and hash_code(module) != recorded
    finally:
        sys.path.pop()


def _defines(source: Path, name: str) -> bool:
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, ValueError, SyntaxError):
        return False
    return any(isinstance(node, ast.ClassDef) and node.name == name for node in tree.body)


def _find(name: str) -> ModuleSpec | None:
    """Find a module as ``find_spec`` does, but without importing the packages that it is in."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__spec__", None)
    places = None  # Python's own list
    if package := name.rpartition(".")[0]:
        around = _find(package)
        if around is None or around.submodule_search_locations is None:
            return None
        places = around.submodule_search_locations
    found = (finder.find_spec(name, places) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def _is_installed(package: str) -> bool:
    """Tell whether a module that belongs to no other is installed or Python's own."""
    if package in NOT_OWN:
        return True
    spec = _find(package)
    if spec is None:
        return True
    places = [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any(PACKAGES & set(Path(where).parts) for where in places)


def _imported(source: bytes, importer: ModuleSpec) -> Iterator[str]:
    """Yield the modules that a source imports, with the packages around them; some names are no modules."""
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), importer.parent)
            names = [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            yield from accumulate(name.split("."), "{}.{}".format)
