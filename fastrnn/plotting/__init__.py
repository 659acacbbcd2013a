"""Pictures of networks and of what they do: the unfolded circuit, trajectories, gradient norms, training curves, activations, attention.

Figures need matplotlib (``pip install 'fastrnn[plot]'``) but no display; `gradient_norms` and `activations` need NumPy only.
"""

from fastrnn.plotting._attention import attention
from fastrnn.plotting._curves import gradient_norms, history, plot_gradient_norms, trajectories
from fastrnn.plotting._unfolded import unfolded
from fastrnn.plotting._viewer import activations

__all__ = ["activations", "attention", "gradient_norms", "history", "plot_gradient_norms", "trajectories", "unfolded"]
