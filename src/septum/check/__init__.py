"""Find and repair the defects of a data set."""
