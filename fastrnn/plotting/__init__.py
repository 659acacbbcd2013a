"""Pictures of networks and of what they compute.

The unfolded circuit of a network, trajectories of its states, norms of gradients over time lags, curves of a training
run, activations of single units, and maps of attention. Figures need matplotlib (``pip install 'fastrnn[plot]'``) but
no display; `gradient_norms` and `activations` need NumPy only.
"""

from fastrnn.plotting._attention import attention
from fastrnn.plotting._curves import history, plot_gradient_norms
from fastrnn.plotting._gradients import gradient_norms
from fastrnn.plotting._trajectories import trajectories
from fastrnn.plotting._unfolded import unfolded
from fastrnn.plotting._viewer import activations

__all__ = ["activations", "attention", "gradient_norms", "history", "plot_gradient_norms", "trajectories", "unfolded"]
