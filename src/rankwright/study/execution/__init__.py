"""Carrying out a study: processes, measured costs, single runs."""
