"""The compiler of loops, `septum.jit`, under the name by which the rooms above import it."""

from septum.jit import lazy_jit

__all__ = ["lazy_jit"]
