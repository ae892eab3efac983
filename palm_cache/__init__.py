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
    from palm_cache.api.adaptation import FitResult as FitResult
    from palm_cache.api.adaptation import calibrate as calibrate
    from palm_cache.api.adaptation import evaluate as evaluate
    from palm_cache.api.adaptation import fit as fit
    from palm_cache.api.adaptation import prompts as prompts
    from palm_cache.api.adaptation import transfer as transfer
    from palm_cache.api.extraction import extract as extract
    from palm_cache.api.features import OpenFeatures as OpenFeatures
    from palm_cache.api.features import open_features as open_features
    from palm_cache.api.stores import find_stores as find_stores
    from palm_cache.errors import PalmCacheError as PalmCacheError
    from palm_cache.estimators import HeadClassifier as HeadClassifier
    from palm_cache.estimators import PalmClassifier as PalmClassifier
    from palm_cache.estimators import ZeroShotClassifier as ZeroShotClassifier
    from palm_cache.extraction.prompts import Prompts as Prompts
    from palm_cache.params import FitParams as FitParams
    from palm_cache.params import ReadingParams as ReadingParams
    from palm_cache.params import Recipe as Recipe
    from palm_cache.params import Resources as Resources
    from palm_cache.prediction.export import export_head as export_head
    from palm_cache.prediction.sharing import pull as pull
    from palm_cache.prediction.sharing import push as push
    from palm_cache.prediction.table import PredictResult as PredictResult
    from palm_cache.prediction.table import predict as predict
    from palm_cache.retrieval.find import SearchResult as SearchResult
    from palm_cache.retrieval.find import search as search
    from palm_cache.types.runs import Training as Training

__version__ = "0.1.0"

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

__all__ = [name for names in _HOMES.values() for name in names]


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"palm_cache.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
