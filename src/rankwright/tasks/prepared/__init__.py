"""Tasks tokenised for one model family: the part of `tasks` that needs torch."""
