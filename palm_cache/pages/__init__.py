"""What all pages have in common: their frame, their look and their rule that nothing is fetched."""
