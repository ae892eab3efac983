"""palm-cache: few-shot adaptation of frozen audio-language models on cached embeddings."""

__version__ = "0.1.0"
