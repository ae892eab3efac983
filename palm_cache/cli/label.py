"""The command that serves the page on which a feature store is labelled."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from palm_cache.cli.options import StoreArgument, takes
from palm_cache.cli.terminal import note, say, tell
from palm_cache.errors import ParameterError, counted
from palm_cache.params.use import LoadingParams


@takes(loading=LoadingParams)
def label(
    loading: LoadingParams,
    store: StoreArgument,
    labels: Annotated[
        Path, typer.Option(help="Where labels are kept: a CSV that they are appended to.", metavar="FILE")
    ] = Path("labels.csv"),
    classes: Annotated[
        str | None,
        typer.Option(
            help="Names of classes to begin with; more can be added on the page.",
            metavar="A,B,...",
            show_default="those of the store",
        ),
    ] = None,
    audio: Annotated[
        str | None,
        typer.Option(
            help="The dataset's folder, to play rows from.",
            show_default="where it was when the store was made",
            metavar="DIR",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            help="Port on this machine.", metavar="N", show_default="any that is free", min=0, max=65_535
        ),
    ] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Label a feature store in the browser.

    Search, listen, press a key; a classifier grows meanwhile. The page is served on this machine only, to
    whoever has its address. Every label is on disk as soon as its key is pressed, in a CSV that extract reads
    as a dataset: what the store holds is not embedded again. End the page with Ctrl-C, and go on with the
    same command.

    Needs: pip install 'palm-cache[label]'

    Example: palm-cache label data/features/night/mini.zarr --classes "owl,rain"
    """
    names = [name for name in (classes or "").split(",") if name.strip()]
    if classes is not None and not names:
        raise typer.BadParameter(f"{classes!r} names no class", param_hint="--classes")
    try:
        from palm_cache.label.server import HOST, listen, make_app, make_token, serve
    except ImportError as error:
        raise ParameterError(
            f"the label page needs {error.name}; install it with: pip install 'palm-cache[label]'"
        ) from error
    from palm_cache.extraction.recorded import load_text_tower
    from palm_cache.label.session import Session
    from palm_cache.store.atomic import locked
    from palm_cache.store.features import FeatureStore
    from palm_cache.store.layout import command_line, store_path
    from palm_cache.store.places import place

    opened = FeatureStore(place(store))
    load = partial(load_text_tower, opened.header, loading)
    # By whatever link it is reached, the file is one.
    itself = labels.resolve() if labels.is_symlink() else labels
    with locked(itself, "another label page has it open", "labels"), listen(port) as listener:
        session = Session(opened, labels, classes=names, audio=audio, load_tower=load)
        note(*session.problems)
        rows, known = counted(int(session.usable.sum()), "row"), len(session.labelled())
        say(f"labelling {rows} of {opened.header.dataset} ({store}), {known:,} labelled so far")
        say(f"labels -> {labels.absolute()}, each as soon as its key is pressed")
        say("keys: 1 to 0 and letters give a class, Enter takes the guess, + adds a class, Space plays,")
        say("  the right arrow skips, Backspace undoes, ? shows all of them")
        say("Ctrl-C ends the page; the same command goes on where you were")
        token, bound = make_token(), listener.getsockname()[1]
        address = f"http://{HOST}:{bound}/{token}/"
        with session, suppress(KeyboardInterrupt):
            tell(address)
            if browser:
                webbrowser.open(address)  # in a session of its own: Ctrl-C here must not end it
            serve(make_app(session, token, bound), listener)
        count = len(session.labelled())
    tell(f"{counted(count, 'row')} labelled{f' in {labels}' if labels.exists() else ''}")
    if count:
        folder, header = opened.path.parent.parent, opened.header
        features = folder if store_path(folder, header.dataset, header.encoder) == opened.path else None
        again = command_line(
            "extract",
            dataset=labels,
            root=session.folder or None,
            encoder=header.encoder,
            features=features,
        )
        tell(f"a classifier of them: {again}")
