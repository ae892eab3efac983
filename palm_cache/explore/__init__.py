"""A page on which the clips of a feature store can be looked at, listened to and doubted."""

from typing import Literal, get_args

Method = Literal["tsne", "pca", "umap"]
"""How the map is made."""

METHODS: tuple[Method, ...] = get_args(Method)
