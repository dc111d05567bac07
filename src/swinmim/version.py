"""The version of this program, written into every encoder folder."""

__version__ = "0.1.0"
