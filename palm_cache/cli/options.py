"""Options of commands, made of the dataclasses that hold their names, choices, defaults and help."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache, partial, wraps
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import typer

from palm_cache.cli.checks import check_encoders, check_head_list, check_heads_file, check_stores
from palm_cache.cli.completion import (
    complete_column,
    complete_dataset,
    complete_device,
    complete_encoder,
    complete_heads,
    complete_list,
    complete_predicted_run,
    complete_run,
    complete_store,
)
from palm_cache.cli.parameter_file import read_params
from palm_cache.cli.terminal import TYPED
from palm_cache.errors import ParameterError, UnknownNameError, naming
from palm_cache.params import (
    BenchParams,
    FitParams,
    P,
    Params,
    PromptFiles,
    ReadingParams,
    Recipe,
    Resources,
)
from palm_cache.params.use import LoadingParams, MapParams, PredictParams, RowFilter, SearchParams
from palm_cache.types import Help
from palm_cache.types.fields import choices, kinds
from palm_cache.types.runs import Training

PANELS: Mapping[type, str] = {
    ReadingParams: "Reading the dataset",
    PromptFiles: "Prompts: what the text encoder reads",
    Recipe: "The recipe: what decides the numbers",
    Resources: "Resources: how it runs; they change no number",
    FitParams: "What is fitted",
    Training: "Training of palm, palm-prototype and heads that learn words",
    LoadingParams: "Loading the encoder",
    PredictParams: "Listening",
    SearchParams: "What to look for",
    RowFilter: "Which rows",
    MapParams: "What the map shows",
    BenchParams: "What is measured",
}
"""Where help lists the options of a dataclass."""

Callback = Callable[..., Any] | None

VALUES: Mapping[tuple[type, str], tuple[Callback, Callback]] = {
    (Params, "encoder"): (complete_encoder, check_encoders),
    (ReadingParams, "columns"): (complete_column, None),
    (FitParams, "heads"): (complete_heads, check_head_list),
    (LoadingParams, "encoder"): (complete_encoder, check_encoders),
    (SearchParams, "run"): (complete_run, None),
    (SearchParams, "head"): (None, check_heads_file),
    (RowFilter, "datasets"): (complete_dataset, None),
    (MapParams, "run"): (complete_predicted_run, None),
    (MapParams, "head"): (None, check_heads_file),
    **{(kind, "device"): (complete_device, None) for kind in (Resources, LoadingParams, BenchParams)},
}
"""What completes the values of a field, if not its choices, and what checks them as they are parsed."""

DatasetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        help="A known dataset (see: palm-cache datasets), or a folder or table of your own; ./NAME is a "
        "folder even where a known dataset is called NAME. Give it again for more.",
        metavar="NAME_OR_DIR",
        autocompletion=complete_dataset,
    ),
]
RootOption = Annotated[
    str | None,
    typer.Option(
        "--root",
        help="Where a dataset known by name lies, or the audio of a table: a folder or a URL.",
        metavar="PLACE",
        show_default="data/raw/<Name>, or the table's folder",
    ),
]


def encoder_option(
    default: str, more: str = "; give it twice to join the features of two, e.g. for muka"
) -> Any:
    """Return the option of the encoder whose features are taken, or of several whose are joined."""
    return typer.Option(
        "--encoder",
        help=f"The encoder of extract{more}.",
        metavar="SPEC",
        show_default=default,
        autocompletion=complete_encoder,
        callback=check_encoders,
    )


ParamsOption = Annotated[
    Path | None,
    typer.Option("--params", help="Take options from this YAML file; the command line wins.", metavar="FILE"),
]
OutOption = Annotated[Path, typer.Option("--out", help="Where heads, scores and report lie.", metavar="DIR")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="A feature store that is not at its default place: a folder or URL.",
        metavar="PLACE",
        autocompletion=complete_store,
        callback=check_stores,
    ),
]
StoreArgument = Annotated[
    str,
    typer.Argument(
        help="A feature store, e.g. data/features/demo/mini.zarr or s3://bucket/features/demo/mini.zarr.",
        metavar="STORE",
        autocompletion=complete_store,
        callback=check_stores,
    ),
]
HeadsArgument = Annotated[
    Path,
    typer.Argument(
        help="A heads.h5 file, or the folder that it lies in.", metavar="HEADS", callback=check_heads_file
    ),
]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A heads.h5, an exported head.safetensors, the folder that it lies in, or hf://USER/NAME.",
        metavar="HEADS",
        callback=check_heads_file,
    ),
]
HeadsOption = Annotated[
    Path | None,
    typer.Option("--heads", help="Where the heads lie, if elsewhere.", metavar="DIR", show_default="--out"),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        "--run",
        help="A run of the file, by its name or the beginning of it: palm, palm-16shots.",
        metavar="NAME",
        show_default="the best on its held-out shots",
        autocompletion=complete_run,
    ),
]

Fields = tuple[type, tuple[str, ...]]
"""A dataclass and those of its fields that a command takes."""

Given = Mapping[tuple[type, str], Any]
"""What was given on the command line by dataclass and field, ``None`` where nothing was."""


def takes(**groups: type | Fields) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for every field of some dataclasses that is annotated with its help.

    A field that holds such a dataclass stands for the fields of that one. The command is handed each
    dataclass with what was given in its place: in what the file of ``--params`` says, where it takes one,
    else in the defaults.

    Parameters
    ----------
    **groups : type, or type and names of fields
        Dataclass by the name of the command's parameter.
    """
    asked = {name: group if isinstance(group, tuple) else (group, ()) for name, group in groups.items()}
    options = [option for kind, only in asked.values() for option in _optional(kind, only)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        made = [_parameter(*option) for option in options]

        @wraps(command)
        def run(**values: Any) -> None:
            given = {(kind, name): _listed(kind, name, values.pop(name)) for kind, name in options}
            bases = _bases(values.get("params"))
            for group, (kind, _) in asked.items():
                values[group] = _with(bases.get(kind, kind), given)
            command(**values)

        kept = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own.parameters.values()
            if parameter.name not in groups
        ]
        signature = own.replace(parameters=[*kept, *made])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        return run

    return decorate


def _bases(file: Path | None) -> dict[type, Any]:
    """Return what the command line changes, as a parameter file says it or as it is by default."""
    params = read_params(file)
    loading = LoadingParams(device=params.resources.devices[0], tokenizer=params.extract.tokenizer)
    return {Params: params, LoadingParams: loading}


def _with(params: P | type[P], given: Given) -> P:
    """Return a dataclass, and those in it, with those values in place that were given.

    What they refuse makes no sense, whatever the data: that is wrong usage. What does not suit a dataset, an
    encoder or a store is told later, and can be mended there.
    """
    kind = params if isinstance(params, type) else type(params)
    values = {name: value for (owner, name), value in given.items() if owner is kind and value is not None}
    try:
        if isinstance(params, type):
            return params(**values)
        held = [name for name, part in kinds(kind).items() if is_dataclass(part)]
        return replace(params, **values, **{name: _with(getattr(params, name), given) for name in held})
    except (ParameterError, UnknownNameError) as error:
        raise typer.BadParameter(naming(error.message, TYPED)) from None


def _optional(kind: type, only: tuple[str, ...]) -> Iterator[tuple[type, str]]:
    """Yield the fields that are options: those with help, and those of dataclasses in others."""
    for name, inner in kinds(kind).items():
        if only and name not in only:
            continue
        if _help(kind, name):
            yield kind, name
        elif is_dataclass(inner):
            yield from _optional(cast("type", inner), ())


@cache
def _annotations(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _help(kind: type, name: str) -> Help | None:
    metadata = getattr(_annotations(kind)[name], "__metadata__", ())
    return next((item for item in metadata if isinstance(item, Help)), None)


def _listed(kind: type, name: str, given: Any) -> Any:
    """Part what was given for a field of several values: at commas, unless each is given by itself."""
    annotation, option, text = kinds(kind)[name], _option(kind, name), _help(kind, name)
    if get_origin(annotation) is not tuple:
        return given
    if not given or (text and text.repeated):
        return tuple(given or ()) or None
    of_item, words = get_args(annotation)[0], choices(annotation)
    of_numbers = int in (of_item, *get_args(of_item))
    said = [word.strip() for several in given for word in several.split(",") if word.strip()]
    try:
        return tuple(int(word) if of_numbers and word not in words else word for word in said)
    except ValueError:
        wrong = ",".join(given)
        numbers = ",".join(wrong.replace(",", " ").split())
        meant = f"; did you mean {option} {numbers}?" if re.fullmatch(r"[\d,]+", numbers) else ""
        others = f" or {', '.join(words)}" if words else ""
        message = f"{wrong!r} is not a comma-separated list of whole numbers{others}{meant}"
        raise typer.BadParameter(message, param_hint=option) from None


def _option(kind: type, name: str) -> str:
    text = _help(kind, name)
    return (text and text.option) or f"--{name.replace('_', '-')}"


@cache
def _parameter(kind: type, name: str) -> inspect.Parameter:
    text = _help(kind, name) or Help("")
    annotation: Any = kinds(kind)[name]
    completion, check = VALUES.get((kind, name), (None, None))
    if get_origin(annotation) is tuple:
        completion = completion or complete_list(partial(choices, annotation))
        annotation = list[str]
    elif str in get_args(annotation):  # of a place, too: on a command line it is text
        annotation = str
    option = _option(kind, name)
    info = typer.Option(
        f"{option}/--no-{option[2:]}" if annotation is bool else option,
        *filter(None, [text.short]),
        help=text.text,
        metavar=text.metavar or _metavar(annotation),
        show_default=text.shown or _shown_default(kind, name),
        rich_help_panel=PANELS.get(kind),
        autocompletion=completion,
        callback=check,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation | None, info]
    )


def _metavar(annotation: Any) -> str | None:
    """Return what stands for a value in help: its choices, or what kind it is of; nothing for a flag."""
    if words := choices(annotation):
        return "|".join(words)
    return {int: "N", float: "X", str: "TEXT", bool: None}[annotation]


def _shown_default(kind: type, name: str) -> str | bool:
    default = next(field.default for field in fields(kind) if field.name == name)
    if default is MISSING or default is None:
        return False
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, tuple):
        return ",".join(map(str, default)) or False
    return str(default) or False
