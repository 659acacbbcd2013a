"""Estimators of scikit-learn for sequences: a class or numbers for each sequence, a class for each step, forecasts."""

from fastrnn.sklearn._classifier import RNNClassifier
from fastrnn.sklearn._forecaster import RNNForecaster
from fastrnn.sklearn._regressor import RNNRegressor
from fastrnn.sklearn._tagger import RNNTagger

__all__ = ["RNNClassifier", "RNNForecaster", "RNNRegressor", "RNNTagger"]
