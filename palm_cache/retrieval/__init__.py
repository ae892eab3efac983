"""Rows of feature stores that are like a text, a sound or a class, that are in doubt or unlike all others."""
