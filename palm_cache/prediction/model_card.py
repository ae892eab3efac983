"""The card of a shared head for people: the page of its repository on a hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from palm_cache.errors import visible
from palm_cache.store.layout import slug


def readme(card: Mapping[str, Any], repository: str) -> str:
    """Return Markdown, with the front matter that a hub reads.

    Parameters
    ----------
    card : mapping
        From :func:`palm_cache.prediction.head_card.describe`.
    repository : str
        ``user/name``.
    """
    environment = Environment(
        loader=PackageLoader("palm_cache.prediction", ""),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": _code,
        "percent": lambda share: f"{share:.1%}",
        "share": lambda share: f"{share:.0%}",
    }
    spec = card["encoder"]["spec"]
    return environment.get_template("model_card.md.jinja").render(
        card=card,
        scores=card["scores"],
        repository=repository,
        name=repository.rpartition("/")[2],
        front_matter=_front_matter(card, repository.rpartition("/")[2]),
        trained_on=card["run"].removeprefix(f"{card['head']}-") if card["n_train"] else "without training",
        has_weights_elsewhere=":" in spec and not _hub_id(spec),
    )


def _front_matter(card: Mapping[str, Any], name: str) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    scores = card["scores"]
    results = scores and [
        EvalResult(
            task_type="audio-classification",
            dataset_type=slug(card["dataset"]),
            dataset_name=card["dataset"],
            metric_type="accuracy",
            metric_value=round(scores["accuracy"], 4),
        )
    ]
    return ModelCardData(
        library_name="palm-cache",
        pipeline_tag="audio-classification",
        license="other",
        tags=["palm-cache", "few-shot", slug(card["head"])],
        base_model=_hub_id(card["encoder"]["spec"]),
        model_name=name if results else None,
        eval_results=results or None,
    ).to_yaml()


def _hub_id(spec: str) -> str | None:
    """Return the model on the hub that a spec names, if it names one."""
    match = re.fullmatch(r"(?:clap|hf|pe-audio):([\w-][\w.-]*/[\w-][\w.-]*)(?:[@#].*)?", spec, re.ASCII)
    return match[1] if match else None


def _code(text: str) -> str:
    """Return text as code that nothing in it ends; names are read from files."""
    return f"`{visible(text).replace('`', chr(39)).replace('|', '/')}`"
