"""What a GPU does, measured: ``python -m pipelines.benchmarks.gpu``."""
