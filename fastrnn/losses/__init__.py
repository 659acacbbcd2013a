"""Loss functions. A call returns the loss; `vjp` returns the loss and the function that computes the gradient."""

from fastrnn.losses.linear import softmax_linear, softmax_linear_nll
from fastrnn.losses.numeric import BinaryCrossEntropy, MeanSquaredError, QuantileLoss
from fastrnn.losses.softmax import SoftmaxCrossEntropy

__all__ = [
    "BinaryCrossEntropy",
    "MeanSquaredError",
    "QuantileLoss",
    "SoftmaxCrossEntropy",
    "binary_cross_entropy",
    "mean_squared_error",
    "softmax_cross_entropy",
    "softmax_linear",
    "softmax_linear_nll",
]

softmax_cross_entropy = SoftmaxCrossEntropy()
mean_squared_error = MeanSquaredError()
binary_cross_entropy = BinaryCrossEntropy()
