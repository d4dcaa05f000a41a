"""Functions on numpy arrays: geometry, tiles, normalization, targets, weight map, objects. No torch, no files."""
