"""Find what is wrong with a data set, and repair it."""
