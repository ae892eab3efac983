"""Options of commands, made of the dataclasses that hold them; names, choices and help are there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import wraps
from typing import Annotated, Any, get_args, get_type_hints

import typer

from palm_cache.params import Help


def takes(panel: str = "", /, **groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of some dataclasses.

    The command has a parameter for each of them; it is handed the given values by name, ``None`` for those
    that were not given, as :func:`palm_cache.params.override` takes them.

    Parameters
    ----------
    **groups : type
        Dataclass by the name of the command's parameter; its fields are annotated with
        :class:`~palm_cache.params.Help`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        made = [_parameter(kind, field.name) for kind in groups.values() for field in fields(kind)]

        @wraps(command)
        def run(**values: Any) -> None:
            picked = {
                group: {field.name: values.pop(field.name) for field in fields(kind)}
                for group, kind in groups.items()
            }
            command(**values, **picked)

        kept = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own.parameters.values()
            if parameter.name not in groups
        ]
        signature = own.replace(parameters=[*kept, *made])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: one.annotation for name, one in signature.parameters.items()}
        return run

    return decorate


def _parameter(kind: type, name: str) -> inspect.Parameter:
    annotated = get_type_hints(kind, include_extras=True)[name]
    wanted = get_args(annotated)[0]
    said = next(one for one in annotated.__metadata__ if isinstance(one, Help))
    default = next(field.default for field in fields(kind) if field.name == name)
    option = f"--{name.replace('_', '-')}"
    shown = said.shown or (str(default) if default is not MISSING and not isinstance(default, bool) else "no")
    info = typer.Option(
        f"{option}/--no-{option[2:]}" if wanted is bool else option,
        help=said.text.replace("[", r"\["),
        metavar=said.metavar,
        show_default=shown,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[wanted | None, info]
    )
