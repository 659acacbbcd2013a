"""Whole models: data in, training, use, saved to disk."""

from fastrnn.models.language_model import LanguageModel

__all__ = ["LanguageModel"]
