"""Datasets: folders, tables and annotations, read as tables of clips."""
