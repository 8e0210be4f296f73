"""The stages of a study, measure, tune and run, and the processes that carry them out."""
