"""Synthetic images of cells, and a segmentation method without learning."""
