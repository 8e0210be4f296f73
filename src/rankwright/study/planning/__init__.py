"""The plan of a study: configuration, budget, and the study that it continues."""
