"""Several trainings in one run: folds, seeds, learning curves, trackers."""
