"""What the commands do, from Python, with arrays and tables at the end instead of text.

``import palm_cache`` offers all of it; a module is imported when something of it is first asked for.
"""
