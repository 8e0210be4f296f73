"""Tasks tokenised for one model family; everything of a task that needs torch is here."""
