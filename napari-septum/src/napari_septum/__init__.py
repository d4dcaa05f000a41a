"""Septum in napari: panels to train, predict and annotate; reader, writer and sample data. See ``napari.yaml``."""
