"""Train a model from a folder of annotated images."""
