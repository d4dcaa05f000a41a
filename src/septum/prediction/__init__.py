"""Apply a model to images of any size."""
