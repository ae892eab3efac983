"""What the commands do, from Python, with arrays and tables at the end instead of text.

``import palm_cache`` gives the most used of it without importing anything heavy before it is used.
"""

from palm_cache.api.adaptation import (
    FitResult,
    calibrate,
    evaluate,
    fit,
    prompts,
    transfer,
)
from palm_cache.api.extraction import OpenFeatures, extract, open_features
from palm_cache.api.stores import find_stores
from palm_cache.prediction.export import export_head
from palm_cache.prediction.sharing import pull, push
from palm_cache.prediction.table import PredictResult, predict
from palm_cache.retrieval.find import SearchResult, search

__all__ = [
    "FitResult",
    "OpenFeatures",
    "PredictResult",
    "SearchResult",
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
