"""The plan of a study: configuration, budgets, data, and the study that it continues."""
