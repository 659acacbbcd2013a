"""The batches of a training: one long sequence as parallel streams, or many sequences grouped by length.

The training loop calls `begin(epoch)` and then takes each of the ``len(batches)`` batches by its index. The batches
of an epoch depend only on the seed and the epoch, so a resumed run continues with the same batches. ``share(rank,
ranks)`` returns batches that hold only the rows of one of several processes; a batch without such rows is None.
"""

from fastrnn.batches.sequences import Generated, Ragged, Sequences
from fastrnn.batches.streams import Streams, Window, row_share

__all__ = ["Generated", "Ragged", "Sequences", "Streams", "Window", "row_share"]
