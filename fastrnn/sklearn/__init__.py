"""Estimators of scikit-learn: sequences to classes or numbers, each step to a class, and the steps to come."""

from fastrnn.sklearn._classes import RNNClassifier, RNNTagger
from fastrnn.sklearn._numbers import RNNForecaster, RNNRegressor

__all__ = ["RNNClassifier", "RNNForecaster", "RNNRegressor", "RNNTagger"]
