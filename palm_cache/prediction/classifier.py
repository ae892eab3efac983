"""A head of a heads file together with the encoder, or the encoders, that its features came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from palm_cache.adaptation.heads.base import unit
from palm_cache.adaptation.heads.zero_shot import ZeroShot
from palm_cache.adaptation.scorer import Scorer
from palm_cache.errors import EncoderError
from palm_cache.extraction.encoders.base import Encoder
from palm_cache.extraction.encoders.registry import load_encoder
from palm_cache.extraction.recipe import audio_recipe, recipe_of
from palm_cache.extraction.recorded import load_same_encoder
from palm_cache.params import Params, Recipe
from palm_cache.params.use import LoadingParams
from palm_cache.prediction.answers import told_apart
from palm_cache.prediction.sources import HeadSource, find_heads
from palm_cache.store.fingerprint import fingerprint
from palm_cache.store.heads import Origin
from palm_cache.store.remedies import fit_command
from palm_cache.store.run_names import run_name
from palm_cache.store.shared import open_head
from palm_cache.types import ZERO_SHOT_TEMPLATE, AnyPath
from palm_cache.types.runs import FittedHead, Run


class Classifier:
    """Says what is heard in waveforms.

    Parameters
    ----------
    head : FittedHead
    ears : sequence of (Encoder, Recipe)
        Whose features the head was fitted on, side by side if there are several, and by which they were made.

    Raises
    ------
    DamagedStoreError
        If the head does not fit the encoder's embeddings, or scores other classes than it names.
    """

    def __init__(self, head: FittedHead, ears: Sequence[tuple[Encoder, Recipe]]) -> None:
        self.head = head
        # A head that is scored by the first view needs no other.
        self.ears = [
            (encoder, recipe if head.test_views == "mean" else replace(recipe, views=1))
            for encoder, recipe in ears
        ]
        self.encoder, self.recipe = self.ears[0]
        self.scorer = Scorer(head, sum(encoder.dim for encoder, _ in ears), self.encoder.text_tower())

    @classmethod
    def load(
        cls,
        heads: AnyPath | HeadSource,
        run: str | None = None,
        loading: LoadingParams = LoadingParams(),  # noqa: B008  # frozen
    ) -> Self:
        """Load a head and its encoder.

        Parameters
        ----------
        heads : path or HeadSource
            See :func:`~palm_cache.prediction.sources.find_heads`.
        run : str, optional
            See :func:`~palm_cache.store.run_names.choose_run`; by default the best on its held-out shots.
        loading : LoadingParams
            See :func:`~palm_cache.extraction.recorded.load_same_encoder`; joined ones are ``A+B``.

        Raises
        ------
        StoreError, UnknownNameError
            If there are no such heads.
        EncoderError
            If the encoder cannot be loaded, or the head reads the features of several.
        StaleStoreError
            If the encoder is not the one that the head was fitted on.
        """
        source = heads if isinstance(heads, HeadSource) else find_heads(heads)
        opened = open_head(source.file, run)
        head, origin = opened.head, opened.origin
        specs = head.run.encoder.split("+")
        if len(specs) == 1:
            # Format 1 does not count views among what decides the encoder's numbers.
            recorded: list[Mapping[str, object]] = [{"views": origin.views, **origin.identity}]
            wanted = [head.fingerprint]
        else:
            recorded = recipes_of_joined(head, origin)
            wanted = [fingerprint(recipe) for recipe in recorded]
        named = loading.encoder.split("+") if loading.encoder else [None] * len(specs)
        if len(named) != len(specs):
            raise EncoderError(
                f"`encoder` {loading.encoder}: run {run_name(head.run)} reads the features of {len(specs)} "
                f"encoders; name them all, as {head.run.encoder}"
            )
        advice = "give the ones it was fitted on with `encoder` or `tokenizer`, or extract and fit again"
        ears = []
        for spec, recipe, of_recipe, name in zip(specs, recorded, wanted, named, strict=True):
            encoder = load_same_encoder(
                spec,
                recipe,
                of_recipe,
                replace(loading, encoder=name),
                purpose=f"{source.name} was fitted on",
                advice=advice,
            )
            ears.append((encoder, recipe_of(recipe)))
        return cls(head, ears)

    @classmethod
    def zero_shot(cls, class_names: Sequence[str], loading: LoadingParams) -> Self:
        """Load an encoder that tells classes apart by their prompts alone; nothing is fitted.

        Parameters
        ----------
        class_names : sequence of str
            Two or more, each once.
        loading : LoadingParams
            Of an encoder that reads text; ``mini`` by default.

        Raises
        ------
        ParameterError
            See :func:`~palm_cache.prediction.answers.told_apart`.
        UnknownNameError, EncoderError
            If the encoder cannot be loaded, or reads no text.
        """
        names = told_apart(class_names)
        recipe = Recipe(tokenizer=loading.tokenizer)
        loaded = load_encoder(loading.encoder or Params().encoder, recipe, device=loading.device)
        prompts = [ZERO_SHOT_TEMPLATE.replace("{c}", name) for name in names]
        embeddings = unit(loaded.embed_text(prompts))
        head = FittedHead(
            run=Run("", loaded.spec, ZeroShot.name, shots=0, fold=1, seed=0),
            state={"class_embeddings": embeddings},
            class_names=names,
            template=ZERO_SHOT_TEMPLATE,
            hyperparameters={},
            test_views="first",
            fingerprint=fingerprint(audio_recipe(loaded, recipe)),
            digest="",
            n_train=0,
            n_params=0,
            fit_seconds=0.0,
        )
        return cls(head, [(loaded, recipe)])


def recipes_of_joined(head: FittedHead, origin: Origin) -> list[Mapping[str, object]]:
    """Return how the features of every encoder were made that a head reads side by side.

    Raises
    ------
    EncoderError
        If the heads file does not say it: earlier versions did not write it.
    """
    recorded = origin.identity.get("joined")
    if not isinstance(recorded, list):
        raise EncoderError(
            f"run {run_name(head.run)} reads the joined features of {head.run.encoder}, and an earlier "
            "version did not write how they were made; fit it again with: "
            f"{fit_command([head.run], [origin.store])}"
        )
    return recorded


def refuse_joined(head: FittedHead) -> None:
    """Refuse to write a head on joined encoders into a file of one head, which names one encoder.

    Raises
    ------
    EncoderError
    """
    if "+" in head.run.encoder:
        raise EncoderError(
            f"run {run_name(head.run)} reads the joined features of {head.run.encoder}, and a file of one "
            "head names one encoder; pass on heads.h5, or export it as onnx"
        )
