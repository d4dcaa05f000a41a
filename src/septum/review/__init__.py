"""Rank what to annotate next, and label errors."""
