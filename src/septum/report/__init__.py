"""Collect what a training did, and write it as one page."""
