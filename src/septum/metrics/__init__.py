"""Scores on numpy arrays, each equal to its owner's program. No torch, no files."""
