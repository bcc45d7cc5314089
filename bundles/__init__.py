"""The archive format and the vocabulary that creating and installing share."""

__version__ = "0.1.0"
