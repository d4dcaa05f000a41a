"""Find which mask belongs to which image, by names alone."""
