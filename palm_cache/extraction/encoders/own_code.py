"""The code of somebody's own encoder: which files it is, and where in it an error arose."""

from __future__ import annotations

import ast
import hashlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name, spec_from_file_location
from itertools import accumulate
from pathlib import Path

from palm_cache.errors import EncoderError, described

NOT_OWN = {*sys.stdlib_module_names, "palm_cache", "torch", "transformers"}
"""Modules whose code is nobody's own, wherever they lie."""

PACKAGES = {"site-packages", "dist-packages"}
"""Folders of what is installed: it has versions, and an encoder an ``IMPLEMENTATION``."""

LIBRARIES = (Path(__file__).parents[2], Path(sysconfig.get_path("stdlib")))
"""Folders in whose files no error of somebody's own code arises."""

_RUN: dict[str, dict[str, tuple[ModuleSpec | None, str]]] = {}
"""Of an encoder's module and what it imports, by name: how it was loaded, and the hash of its file when an
encoder was last made of it."""


def told(error: BaseException) -> str:
    """Return on one line what somebody's own code has raised, and where in it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not _is_library(file):
            return f"{described(error)} ({file.name}, line {frame.lineno}, in {frame.name})"
    return described(error)


def _is_library(file: Path) -> bool:
    return bool(PACKAGES & set(file.parts)) or any(map(file.is_relative_to, LIBRARIES))


def hash_run_code(module: str) -> str:
    """Return :func:`hash_code` of a module that has been imported.

    Raises
    ------
    EncoderError
        If a file is no longer what is run, or there is none: a recipe would name other code than it is.
    """
    hashes = _hashes(module)
    if not hashes:
        raise EncoderError(
            f"{module}: has no file, so nobody could notice that its code was edited; write it into one, in "
            "a notebook with %%writefile my_encoder.py"
        )
    # importlib.reload makes another spec.
    specs = {name: getattr(sys.modules[name], "__spec__", None) for name in hashes if name in sys.modules}
    run = _RUN.get(module, {})
    edited = [name for name in specs if name in run and run[name][1] != hashes[name]]
    for name in (*edited, *([module] if edited else [])):  # which may hold what was imported before
        if run[name][0] is specs[name]:
            raise EncoderError(
                f"{sys.modules[name].__file__}: it, or what it imports, was edited since Python loaded it, "
                "and what it was then is run; start Python anew, or reload it with importlib.reload"
            )
    _RUN[module] = {name: (spec, hashes[name]) for name, spec in specs.items()}
    return _together(hashes)


def hash_code(module: str) -> str:
    """Return a hash of the files of a module and of all that it imports, at any depth, and is not installed.

    Nothing is imported for it.
    """
    return _together(_hashes(module))


def _together(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(hashes.items())).encode()).hexdigest()


def _hashes(module: str) -> dict[str, str]:
    """Return the hash of every file by its module's name."""
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
    return hashes


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
        loaded = sys.modules[name]
        spec: ModuleSpec | None = getattr(loaded, "__spec__", None)
        file = getattr(loaded, "__file__", None)
        # A script that is run has none.
        return spec or (spec_from_file_location(name, file) if file else None)
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
