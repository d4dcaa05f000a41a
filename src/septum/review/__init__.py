"""Rank the images to annotate next, and find label errors."""
