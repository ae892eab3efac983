"""What can be said of an argument before anything heavy is loaded: names that nobody knows, files not here.

Typer calls these as it parses. What they raise is what the library would, a second later.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from palm_cache.store.layout import absent_heads, absent_store, heads_file
from palm_cache.types import AnyPath


def check_encoders(context: typer.Context, specs: Any) -> Any:
    """Make sure that one spec or several are those of encoders."""
    from palm_cache.extraction.encoders.registry import check_spec

    for spec in _several(context, specs):
        check_spec(spec)
    return specs


def check_head_list(context: typer.Context, names: Any) -> Any:
    """Make sure that the heads of a comma-separated list exist; ``@`` parts one from its variant."""
    from palm_cache.adaptation.heads import check_heads

    words = (word.strip() for text in _several(context, names) for word in text.split(","))
    check_heads(word.partition("@")[0] for word in words if word)
    return names


def check_stores(context: typer.Context, stores: Any) -> Any:
    """Make sure that feature stores on this machine are there."""
    for store in _several(context, stores):
        if "://" not in store and not Path(store).exists():
            raise absent_store(Path(store))
    return stores


def check_heads_file(context: typer.Context, heads: Any) -> Any:
    """Make sure that a heads file or its folder, unless it is on a hub, is there."""
    for path in _several(context, heads):
        require_heads(path)
    return heads


def require_heads(path: AnyPath) -> None:
    """Raise where a heads file, or its folder, should be on this machine and is not."""
    if not str(path).startswith("hf:") and not Path(path).exists():
        raise absent_heads(heads_file(Path(path)))


def _several(context: typer.Context, values: Any) -> Iterable[Any]:
    if context.resilient_parsing or values is None:  # a shell asks for completion
        return ()
    return values if isinstance(values, list | tuple) else (values,)
