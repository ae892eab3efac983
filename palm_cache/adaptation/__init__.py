"""Stage two: few-shot draws, heads and scores, purely on cached tensors."""
