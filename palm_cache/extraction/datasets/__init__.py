"""Datasets: each adapter is a function from a folder to a table of clips."""
