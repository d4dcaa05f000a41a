"""Collect the results of a training, and write them as one page."""
