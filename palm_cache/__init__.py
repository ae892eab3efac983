"""palm-cache: few-shot adaptation of frozen audio-language models on cached embeddings.

:func:`extract` embeds a dataset once, :func:`open_features` gives what it stored as arrays, :func:`fit`
trains and scores heads on it, :func:`predict` asks one of them what is heard in recordings,
:func:`search` finds rows by text or by example, :func:`push` and :func:`pull` share fitted heads;
:class:`PalmClassifier`, :class:`ZeroShotClassifier` and :class:`HeadClassifier` are scikit-learn estimators.
Importing the package alone loads none of the heavy libraries.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from palm_cache.api.adaptation import FitResult, calibrate, evaluate, fit, prompts, transfer
    from palm_cache.api.extraction import extract
    from palm_cache.api.features import OpenFeatures, open_features
    from palm_cache.api.stores import find_stores
    from palm_cache.errors import PalmCacheError
    from palm_cache.estimators import HeadClassifier, PalmClassifier, ZeroShotClassifier
    from palm_cache.extraction.prompts import Prompts
    from palm_cache.params import FitParams, ReadingParams, Recipe, Resources
    from palm_cache.prediction.export import export_head
    from palm_cache.prediction.sharing import pull, push
    from palm_cache.prediction.table import PredictResult, predict
    from palm_cache.retrieval.find import SearchResult, search
    from palm_cache.types.runs import Training

__version__ = "0.1.0"

__all__ = [
    "FitParams",
    "FitResult",
    "HeadClassifier",
    "OpenFeatures",
    "PalmCacheError",
    "PalmClassifier",
    "PredictResult",
    "Prompts",
    "ReadingParams",
    "Recipe",
    "Resources",
    "SearchResult",
    "Training",
    "ZeroShotClassifier",
    "calibrate",
    "evaluate",
    "export_head",
    "extract",
    "find_stores",
    "fit",
    "open_features",
    "predict",
    "prompts",
    "pull",
    "push",
    "search",
    "transfer",
]

_HOMES = {
    "api.adaptation": ("FitResult", "calibrate", "evaluate", "fit", "prompts", "transfer"),
    "api.extraction": ("extract",),
    "api.features": ("OpenFeatures", "open_features"),
    "api.stores": ("find_stores",),
    "errors": ("PalmCacheError",),
    "estimators": ("HeadClassifier", "PalmClassifier", "ZeroShotClassifier"),
    "extraction.prompts": ("Prompts",),
    "params": ("FitParams", "ReadingParams", "Recipe", "Resources"),
    "prediction.export": ("export_head",),
    "prediction.sharing": ("pull", "push"),
    "prediction.table": ("PredictResult", "predict"),
    "retrieval.find": ("SearchResult", "search"),
    "types.runs": ("Training",),
}
"""Module of every public name; it is imported when the name is first asked for."""


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"palm_cache.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
