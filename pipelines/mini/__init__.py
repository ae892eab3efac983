"""The training world of the embedded encoder ``mini``, its training and its measurement."""
