"""Loading what transformers keeps in directories and on hubs: quietly, errors in one line, no code."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from transformers import AutoTokenizer
from transformers.dynamic_module_utils import get_relative_import_files
from transformers.utils import cached_file, is_peft_available
from transformers.utils import logging as transformers_logging

from palm_cache.errors import EncoderError, counted, described
from palm_cache.extraction.encoders.cards import EncoderCard, card_of_model
from palm_cache.extraction.encoders.checkpoints import misplaced
from palm_cache.extraction.hub import HUB_TIMEOUT, ask_hub
from palm_cache.store.fingerprint import fingerprint

T = TypeVar("T")

ADVICE = "give a directory that save_pretrained of model and processor wrote, or a hub id"
"""What to do where a model cannot be had."""

Options = dict[str, Any]
"""Keyword arguments of every ``from_pretrained``; code that lies with a model is run only where the user says
so."""

TRANSFORMERS: Mapping[str, str] = {"transformers": version("transformers").split(".")[0]}
"""Of the identity of what transformers computes: with another release, vectors may differ."""

IRRELEVANT = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "dtype",
    "id2label",
    "label2id",
    "problem_type",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
"""Entries of a configuration that decide no embedding."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a checkpoint consists of, as transformers' own objects."""

    model: Any
    """In float32."""
    extractor: Any
    """Its constants define window and front end."""
    tokenizer: Any = None
    """A fast one, of a model that reads text."""
    made_with: Mapping[str, str] = field(default_factory=dict)
    """Where it came from."""
    code: str = ""
    """Hash of the code that lies with the model and was run for it."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A directory, or a repository of a hub, as transformers is asked for what lies there."""

    subject: str
    """For messages, e.g. ``"clap:laion/clap-htsat-unfused"``."""
    place: str
    options: Options
    advice: str
    """What to do where something cannot be had."""

    def part(self, name: str, load: Callable[[], T]) -> T:
        """Run one of transformers' loaders; it raises nearly anything for a missing or damaged file.

        Raises
        ------
        EncoderError
            With the part's name, the reason and the advice.
        """
        try:
            return load()
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise needs_code(self.subject, name) from error
            raise EncoderError(
                f"{self.subject}: cannot load its {name}: {described(error)}; {self.advice}"
            ) from error

    def load(self, kind: Any, name: str = "preprocessor_config.json") -> Any:
        """Load what one of transformers' classes makes of the files here; raise as :meth:`part`."""
        return self.part(name, lambda: kind.from_pretrained(self.place, **self.options))

    def tokenizer(self, kind: Any) -> Any:
        """Load a tokenizer as :meth:`load` does; transformers makes an empty one where there is none."""

        def read() -> Any:
            tokenizer = kind.from_pretrained(self.place, **self.options)
            if len(tokenizer) <= len(tokenizer.all_special_tokens):
                raise FileNotFoundError("no vocabulary there")
            return tokenizer

        return self.part("tokenizer files", read)

    def config_of(self, card: EncoderCard) -> dict[str, Any]:
        """Read the configuration of a model for an encoder.

        Raises
        ------
        EncoderError
            If it is missing, damaged or another encoder's, or transformers would leave an adapter out.
        """
        if Path(self.place, "adapter_config.json").is_file() and not is_peft_available():
            raise EncoderError(
                f"{self.subject}: holds an adapter, which transformers leaves out without peft; give the "
                "model that its merge_and_unload() makes, in a folder without adapter_config.json"
            )
        config = self.config()
        kind = config.get("model_type")
        if (right := card_of_model(kind)) is not card:
            raise EncoderError(f"{self.subject}: holds a model of type {kind!r}; try {right.name}:")
        return config

    def config(self, name: str = "config.json") -> dict[str, Any]:
        """Read a model's ``config.json``, or another such file, as it stands; nothing it names is imported.

        Raises
        ------
        EncoderError
            If it is missing or damaged.
        """

        def read() -> dict[str, Any]:
            content = json.loads(self._file(name).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("not a table of entries")
            return content

        return self.part(name, read)

    def provenance(self) -> dict[str, str]:
        """Return the hub's commit that the files here are of, if they came from a hub."""
        commit = re.search(r"/snapshots/([0-9a-f]{40})/", self._file("config.json").as_posix())
        return {"hub_commit": commit[1]} if commit else {}

    def parts(self, card: EncoderCard, model: Any, extractor: Any) -> Parts:
        """Load a model that reads text, by transformers' own class and the feature extractor's loader."""
        self.config_of(card)
        return Parts(
            self.model(model),
            self.part("preprocessor_config.json", lambda: extractor(self.place, **self.options)),
            self.tokenizer(AutoTokenizer),
            self.provenance(),
        )

    def model(self, kind: Any, optional: tuple[str, ...] = ()) -> Any:
        """Load a model's weights in float32, all of them; pickled objects are not read.

        Parameters
        ----------
        kind : class
            One of transformers' own.
        optional : tuple of str
            Ends of the names of weights that may be missing.

        Raises
        ------
        EncoderError
            If they cannot be loaded, or some are missing, misshaped or of layers that the configuration
            does not count.
        """
        more = {"output_loading_info": True, "dtype": torch.float32, "weights_only": True}
        model, report = self.part(
            "weights (model.safetensors)", lambda: kind.from_pretrained(self.place, **self.options, **more)
        )
        # transformers fills what is missing with random numbers and a warning, and drops what is surplus:
        # a training's heads, but also layers that a wrong config.json does not count.
        missing = [key for key in report["missing_keys"] if not key.endswith(optional)]
        any_layer, prefix = partial(re.sub, r"\d+", "N"), f"{model.base_model_prefix}."
        own = set(map(any_layer, model.state_dict()))
        surplus = [key for key in report["unexpected_keys"] if any_layer(key.removeprefix(prefix)) in own]
        wrong = sorted([*missing, *(key for key, *_ in report["mismatched_keys"]), *surplus])
        if wrong:
            raise EncoderError(
                f"{self.subject}: {counted(len(wrong), 'weight is', 'weights are')} missing, surplus or "
                f"misshaped, e.g. {', '.join(wrong[:3])}; not a complete {kind.__name__} checkpoint, or its "
                "config.json is another's"
            )
        return model

    def code(self) -> dict[str, str]:
        """Return the modules of code that lies here, each with the file that names it; nothing is run.

        Raises
        ------
        EncoderError
            If the code lies in another repository, whose state nothing would pin.
        """
        modules: dict[str, str] = {}
        for part in ("config.json", "preprocessor_config.json"):
            for value in (self.config(part).get("auto_map") or {}).values():
                for name in value if isinstance(value, list) else [value]:
                    elsewhere, owner, module = str(name or "").rpartition("--")
                    if owner:
                        raise EncoderError(
                            f"{self.subject}: its code lies elsewhere, in {elsewhere}; "
                            "give a copy that holds it too"
                        )
                    if module:
                        modules[f"{module.rpartition('.')[0]}.py"] = part
        return modules

    def hash_code(self, modules: Mapping[str, str]) -> str:
        """Return a hash of modules that have been loaded and of all that they import from beside them."""
        files: set[Path] = set()
        for module, part in modules.items():
            file = self.part(part, partial(self._file, module))
            files |= {file, *map(Path, get_relative_import_files(file))}
        digest = hashlib.sha256()
        for file in sorted(files, key=lambda file: file.name):
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()

    def _file(self, name: str) -> Path:
        """Return the path of a file on this machine, fetched if need be."""
        options = {key: value for key, value in self.options.items() if key != "trust_remote_code"}
        found = cached_file(self.place, name, **options)
        if found is None:  # of a folder without a config.json; what else is missing it raises
            raise FileNotFoundError("there is none in the folder")
        return Path(cast(str, found))


def from_directory_or_hub(
    subject: str,
    source: str,
    load: Callable[[Repository], T],
    advice: str = ADVICE,
    *,
    trusted: bool = False,
) -> T:
    """Load from a directory, else from the hub's local cache, else from a hub that answers.

    Parameters
    ----------
    subject : str
        For messages.
    source : str
        A directory or a hub id, ``owner/name`` or ``owner/name@revision``.
    load : callable
        Raises ``EncoderError``.
    advice : str
        What to do where it cannot be had.
    trusted : bool
        Whether the user wants code that lies with the model to be run.

    Raises
    ------
    EncoderError
        If it is neither, or cannot be had.
    """
    options: Options = {"trust_remote_code": trusted}
    directory = Path(source).expanduser()

    def load_from(place: str, local: bool) -> T:
        return load(Repository(subject, place, {**options, "local_files_only": local}, advice))

    with quiet_transformers():
        if directory.is_dir():
            return load_from(str(directory.resolve()), local=True)
        if directory.is_file():
            wanted = "give the directory that it lies in, or a hub id (owner/name)"
            raise misplaced(subject, source, f"a file; {wanted}")
        name, _, revision = source.partition("@")
        if name.count("/") != 1 or name.startswith((".", "/", "~")):
            raise EncoderError(f"{subject}: no such directory, and not a hub id (owner/name)")
        if revision:
            options["revision"] = revision
        try:
            return load_from(name, local=True)
        except EncoderError as fault:  # not, or not wholly, in the local cache, or not what it should be
            try:
                _check_reachable(subject, name, revision or None, advice)
            except EncoderError:
                if isinstance(fault.__cause__, OSError):  # a file is not there
                    raise
                raise fault from None
            return load_from(name, local=False)


def needs_code(subject: str, part: str, named: str = "") -> EncoderError:
    """Return the error for a model that brings code of its own."""
    return EncoderError(
        f"{subject}: its {part} needs code that lies with the model{f' ({named})' if named else ''}; "
        "palm-cache runs none, but for an hf: model with `trust_remote_code`. Or load it in an encoder of "
        "your own: python:MODULE:CLASS"
    )


def hash_config(*configs: Any, **extras: object) -> str:
    """Hash what configurations say beyond their class's defaults, and whatever else decides."""
    return fingerprint({"configs": [_decisive(config.to_diff_dict()) for config in configs], **extras})


def _decisive(content: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _decisive(value) if isinstance(value, Mapping) else value
        for name, value in content.items()
        if name not in IRRELEVANT
    }


def hash_tokenizer(tokenizer: Any) -> str:
    """Hash everything that decides how a fast tokenizer splits text."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' bars and warnings off stderr."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_reachable(subject: str, source: str, revision: str | None, advice: str) -> None:
    """Ask the hub for the repository once and briefly."""
    ask_hub(
        lambda api: api.model_info(source, revision=revision, timeout=HUB_TIMEOUT),
        lambda refused: EncoderError(
            # The advice ends with what has just been tried.
            f"{subject}: not in the local cache, and {refused}, or {advice.replace(', or a hub id', '')}"
        ),
    )
