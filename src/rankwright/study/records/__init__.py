"""Files of a study: typed records, their folder, and the packed table."""
