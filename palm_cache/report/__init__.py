"""Scores into tables, figures and a page that people read."""
