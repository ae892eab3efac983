"""Commands that give heads to others and take theirs: export, push, pull."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from palm_cache.cli.checks import check_hub_address
from palm_cache.cli.options import RunOption, SourceArgument
from palm_cache.cli.terminal import Json, agreed, print_result, say
from palm_cache.errors import OutputError, counted
from palm_cache.params.use import ExportFormat

if TYPE_CHECKING:
    from palm_cache.prediction.sharing import Parcel


def export(
    heads: SourceArgument,
    to: Annotated[
        ExportFormat, typer.Option("--to", help="The format.", metavar="|".join(get_args(ExportFormat)))
    ],
    run: RunOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The file to write.", metavar="FILE", show_default="named after the run, beside HEADS"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a fitted head for other programs.

    safetensors: class embeddings, scale and temperature (other heads: their state). onnx: a graph from
    embeddings to logits and probabilities, compared with the head before it is kept. A card in JSON beside it
    names classes, encoder, fingerprint, window, scores and licences. Both replace earlier ones of their kind,
    and no other file.

    Example: palm-cache export runs/demo/mini/heads.h5 --to onnx --out demo.onnx
    """
    from palm_cache.prediction.export import export_head

    written = export_head(heads, to, run, out)
    print_result(
        {"file": str(written.file), "card_file": str(written.card_file), "card": written.card},
        f"{written.card['run']} -> {written.file}, {written.card_file}",
        as_json=as_json,
    )


def push(
    heads: SourceArgument,
    to: Annotated[
        str,
        typer.Argument(help="The repository: hf://USER/NAME.", metavar="ADDRESS", callback=check_hub_address),
    ],
    run: RunOption = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a repository that only you can see.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the upload.")] = False,
    as_json: Json = False,
) -> None:
    """Share a fitted head through the Hugging Face hub.

    What is uploaded: the file that export --to safetensors writes, and a page that says which classes it
    knows, which encoder it needs, how good it is, whose licences apply and how to use it. No audio and no
    path of this machine is in either. Log in first, with: hf auth login

    Example: palm-cache push runs/demo/mini/heads.h5 hf://me/city-sounds --private
    """
    from palm_cache.prediction.sharing import prepare_push, send

    parcel = prepare_push(heads, to, run, private=private)
    for line in _contents(parcel):
        say(line)
    if not (yes or agreed("Upload?")):
        raise OutputError("nothing was uploaded; give --yes where nobody can be asked")
    address = send(parcel)
    document = {"address": str(address), "commit": address.revision, "card": parcel.card}
    print_result(document, f"{parcel.card['run']} -> {address}", as_json=as_json)


def pull(
    address: Annotated[
        str,
        typer.Argument(
            help="A shared head: hf://USER/NAME or hf://USER/NAME@REVISION.",
            metavar="ADDRESS",
            callback=check_hub_address,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The folder to make.", metavar="DIR", show_default="the repository's name"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Fetch a shared head into a folder.

    palm-cache predict takes the folder as it takes heads.h5, without a network. The commit that was fetched
    is printed and kept in address.txt; with @REVISION a certain one is fetched.

    Example: palm-cache pull hf://me/city-sounds
    """
    from palm_cache.prediction.sharing import pull as pull_head

    folder, pinned = pull_head(address, out)
    document = {"folder": str(folder), "address": str(pinned), "commit": pinned.revision}
    print_result(document, f"{pinned} -> {folder}", as_json=as_json)


def _contents(parcel: Parcel) -> list[str]:
    """Say what is about to be uploaded, and who will see it."""
    sizes = ", ".join(f"{name} ({len(content):,} bytes)" for name, content in parcel.files.items())
    seen = "private" if parcel.private else "public"
    state = f"{seen}, {'already there' if parcel.exists else 'new'}"
    classes = parcel.card["classes"]
    assert isinstance(classes, list)
    shown = ", ".join(classes[:5]) + (" ..." if len(classes) > 5 else "")
    return [
        f"{parcel.address} ({state}): {sizes}",
        f"{parcel.card['run']}, {counted(len(classes), 'class', 'classes')}: {shown}",
    ]
