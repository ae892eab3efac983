"""A fitted head at work: audio -> encoder -> head. The one place where both wings meet."""
