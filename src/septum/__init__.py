"""Septum: U-Net segmentation that keeps touching objects apart."""

from __future__ import annotations

__version__ = "0.1.0"
