"""The version of this package, readable without importing the rest."""

__version__ = "0.2.0"
