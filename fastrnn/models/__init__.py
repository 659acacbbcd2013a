"""Whole models: data in, training, use, saved to disk."""

from fastrnn.models.classifier import SequenceClassifier
from fastrnn.models.language_model import LanguageModel
from fastrnn.models.tagger import SequenceTagger

__all__ = ["LanguageModel", "SequenceClassifier", "SequenceTagger"]
