"""Names of classes and queries in the text tower of the encoder that made a store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from palm_cache.errors import DataError, EncoderError, PalmCacheError
from palm_cache.extraction.encoders.text import embed_prompts
from palm_cache.retrieval.queries import mean_direction, prompts_of
from palm_cache.store.header import StoreHeader
from palm_cache.types import TextTower

LoadTower = Callable[[], TextTower]
"""Loads the text tower of the encoder that made the store."""

logger = logging.getLogger(__name__)


class Words:
    """Texts in the prompts of a store, embedded once each; for several threads.

    Parameters
    ----------
    header : StoreHeader
    load : callable
        Loads the store's text tower, when the first text is asked for.

    Attributes
    ----------
    off : str
        Why no text can be read, "" as long as nothing is known against it.
    unread : str
        Why the names of classes were not read when they were last asked for.
    """

    def __init__(self, header: StoreHeader, load: LoadTower) -> None:
        self.off = "" if header.text_recipe else "this encoder reads no text"
        self.unread = ""
        self._header, self._load = header, load
        self._tower: TextTower | None = None
        self._known: dict[str, NDArray[np.float32]] = {}
        self._alone = threading.Lock()

    def query(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a text, (dim,).

        Raises
        ------
        DataError
            If there is no text.
        EncoderError
            If it is longer than the tower reads.
        """
        with self._alone:
            tower = self._opened()
            if tower is None:
                raise DataError(f"text search is off: {self.off}")
            return self._embed(tower, text)

    def classes(self, names: Sequence[str]) -> NDArray[np.float32] | None:
        """Return the vectors of class names, (n, dim); ``None`` where one of them cannot be read."""
        with self._alone:
            self.unread = ""
            tower = self._opened()
            if tower is None or not names:
                return None
            vectors = []
            for name in names:
                try:
                    vectors.append(self._embed(tower, name))
                except EncoderError as error:
                    self.unread = f"names of classes are not read, sound alone counts: {name!r}: {error}"
                    return None
            return np.stack(vectors)

    def _opened(self) -> TextTower | None:
        if not self.off and self._tower is None:
            try:
                self._tower = self._load()
            except PalmCacheError as error:
                self.off = str(error)
            except Exception as error:  # of a library, or of an encoder of somebody's
                logger.exception("the text tower cannot be loaded")
                self.off = f"the text tower cannot be loaded: {type(error).__name__}: {error}"
        return self._tower

    def _embed(self, tower: TextTower, text: str) -> NDArray[np.float32]:
        if text not in self._known:
            self._known[text] = mean_direction(embed_prompts(tower, prompts_of(self._header, text)))
        return self._known[text]
