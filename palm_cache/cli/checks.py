"""What can be said of an argument before anything heavy is loaded: names that nobody knows, files not here.

Typer calls these as it parses. What they raise is what the library would, a second later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import typer

from palm_cache.cli.terminal import TYPED
from palm_cache.errors import ParameterError, StoreError, did_you_mean
from palm_cache.store.atomic import check_target
from palm_cache.store.layout import HEADS_FILE, STORE_ENDING, STORE_ROOT, command_line
from palm_cache.store.nearby import absent_store, folder_given, heads_file, respelt
from palm_cache.store.outputs import OutputKind
from palm_cache.types import AnyPath
from palm_cache.types.fields import several


def check_encoders(context: typer.Context, specs: Any) -> Any:
    """Make sure that one spec or several are those of encoders."""
    from palm_cache.extraction.encoders.registry import split_spec

    for spec in _several(context, specs):
        split_spec(spec)
    return specs


def check_head_list(context: typer.Context, names: Any) -> Any:
    """Make sure that the heads of a comma-separated list exist."""
    from palm_cache.adaptation.heads import check_heads

    words = (word.strip() for text in _several(context, names) for word in text.split(","))
    check_heads(word for word in words if word)
    return names


def check_method(context: typer.Context, name: Any) -> Any:
    """Make sure that there is a head of a name that may bear a variant: ``palm@epochs=3,lr=0.5``."""
    from palm_cache.adaptation.heads import check_heads

    check_heads(method.partition("@")[0] for method in _several(context, name))
    return name


def check_stores(context: typer.Context, stores: Any) -> Any:
    """Make sure that feature stores on this machine are there."""
    for store in _several(context, stores):
        if not _may_be_store(store):
            raise absent_store(Path(store))
    return stores


def check_searched_stores(context: typer.Context, stores: list[str]) -> list[str]:
    """Make sure of the same; words that are no stores belong to a text that lacks its quotes."""
    words = [word for word in _several(context, stores) if not (_may_be_store(word) or _is_path(word))]
    present = [store for store in stores if store not in words]
    if words and present:
        text = " ".join([word for word in (context.params.get("text"),) if word] + words)
        command = command_line("search", *present, text=text)
        raise ParameterError(f"{words[0]}: no feature store; a text of several words needs quotes: {command}")
    return cast("list[str]", check_stores(context, stores))


def _may_be_store(store: str) -> bool:
    """Tell whether a feature store, or an exported one, is at a place, as far as this machine knows."""
    where = Path(store)
    return "://" in store or (where / STORE_ROOT).is_file() or (where.suffix == ".h5" and where.is_file())


def _is_path(word: str) -> bool:
    return "/" in word or os.sep in word or word.endswith(STORE_ENDING) or Path(word).exists()


def check_heads_file(context: typer.Context, heads: Any) -> Any:
    """Make sure that a heads file or its folder, unless it is on a hub, is there."""
    for path in _several(context, heads):
        require_heads(path, context.params.get("run"))
    return heads


def require_heads(path: AnyPath, run: str | None = None) -> None:
    """Raise where a heads file, or its folder, should be on this machine and is not, or has no such run."""
    if str(path).startswith("hf:"):
        return
    file = heads_file(path)
    if run is not None and file.suffix == Path(HEADS_FILE).suffix:
        from palm_cache.store.heads import opened_heads

        with opened_heads(file) as opened:
            opened.chosen(run)


def require_results(folder: Path, parameter: str = "out") -> None:
    """Raise where there is no folder of results."""
    folder_given(folder, parameter)
    if not folder.exists():
        remedy = f"make them with: {command_line('fit', out=folder)}"
        raise StoreError(f"{folder}: no results here; {did_you_mean(respelt(folder)) or remedy}")


def not_both(**given: object) -> None:
    """Refuse two options, by their parameters, of which one makes the other senseless."""
    first, second = (TYPED[name] for name in given)
    if all(value not in (None, False) for value in given.values()):
        raise typer.BadParameter(f"give {first} or {second}, not both", param_hint=first)


def check_class_names(context: typer.Context, names: str | None) -> str | None:
    """Make sure that there are two classes or more between the commas."""
    from palm_cache.prediction.answers import told_apart

    for text in _several(context, names):
        told_apart(text.split(","))
    return names


def check_hub_address(address: str) -> str:
    """Make sure that an address of a hub is one."""
    from palm_cache.prediction.hub_heads import HubAddress

    HubAddress.require(address)
    return address


def replaces(kind: OutputKind) -> Callable[[typer.Context, typer.CallbackParam, Any], Any]:
    """Return what makes sure that a file to be written takes no other's place; - is standard output."""

    def check(context: typer.Context, option: typer.CallbackParam, file: Any) -> Any:
        for path in _several(context, file):
            if str(path) != "-":
                check_target(path, str(option.name), kind)
        return file

    return check


def _several(context: typer.Context, values: Any) -> Iterable[Any]:
    absent = context.resilient_parsing or values is None  # a shell asks for completion
    return () if absent else several(values)
