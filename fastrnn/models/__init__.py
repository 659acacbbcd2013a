"""Whole models: data in, training, use, saved to disk."""

from fastrnn.models.classifier import SequenceClassifier
from fastrnn.models.encoder_decoder import EncoderDecoder
from fastrnn.models.events import EventModel
from fastrnn.models.forecaster import Forecaster
from fastrnn.models.language_model import LanguageModel
from fastrnn.models.memory_network import MemoryNetwork
from fastrnn.models.regressor import SequenceRegressor
from fastrnn.models.tagger import SequenceTagger
from fastrnn.models.vector_to_sequence import VectorToSequence

__all__ = [
    "EncoderDecoder",
    "EventModel",
    "Forecaster",
    "LanguageModel",
    "MemoryNetwork",
    "SequenceClassifier",
    "SequenceRegressor",
    "SequenceTagger",
    "VectorToSequence",
]
