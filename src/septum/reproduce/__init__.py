"""Reproduce the paper's results with one command."""
