"""Options of commands, made of the dataclasses that hold them; names, choices and help are there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import cache, wraps
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from palm_cache.params import Help, ReadingParams, Recipe, Resources

PANELS: dict[type, str] = {
    ReadingParams: "Reading the dataset",
    Recipe: "The recipe: what decides the numbers",
    Resources: "Resources: what decides none",
}
"""Where help lists the options of a dataclass."""


def takes(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
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
                group: {one.name: _listed(kind, one.name, values.pop(one.name)) for one in fields(kind)}
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


@cache
def _annotations(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _listed(kind: type, name: str, given: Any) -> Any:
    """Part what was given for a field that holds several values, with commas between."""
    wanted = get_args(_annotations(kind)[name])[0]
    if given is None or get_origin(wanted) is not tuple:
        return given
    return tuple(map(get_args(wanted)[0], given.split(",")))


def _parameter(kind: type, name: str) -> inspect.Parameter:
    annotated = _annotations(kind)[name]
    said = next(one for one in annotated.__metadata__ if isinstance(one, Help))
    wanted: Any = get_args(annotated)[0]
    wanted = str if get_origin(wanted) is tuple else wanted
    default = next(field.default for field in fields(kind) if field.name == name)
    option = said.option or f"--{name.replace('_', '-')}"
    info = typer.Option(
        f"{option}/--no-{option[2:]}" if wanted is bool else option,
        help=said.text.replace("[", r"\["),
        metavar=said.metavar,
        show_default=said.shown or ("no" if default is False else str(default or "") or False),
        rich_help_panel=PANELS.get(kind),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[wanted | None, info]
    )
