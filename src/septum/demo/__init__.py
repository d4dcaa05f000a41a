"""Made images of cells, and a method that does not learn."""
