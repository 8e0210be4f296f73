"""Files of a study: typed records, their folder, the packed table, and locks."""
