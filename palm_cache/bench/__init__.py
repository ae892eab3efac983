"""How fast palm-cache is, measured where it runs."""
