"""Short calls: inference on few steps, computed by a stream that is kept for the next such call.

A stream gives the same bits as `stack.forward` and costs about a microsecond to call, instead of about twenty.
Layers and adapters ask here first. Where there is no stream for a call, they compute it in the general way.
"""

from __future__ import annotations

from fastrnn import _engine
from fastrnn._core import stack

MOST_ROWS = 256  # steps * sequences of a short call
MOST_SEQUENCES = 64  # a call of one layer over at most so many sequences may have more steps than that, ...
MOST_WORK = 500_000_000  # ... up to so many multiply-adds: a stream checks for signals only every 64 steps
MOST_STATE_BYTES = 512 * 1024  # size of h of one layer: a stream of several layers allocates up to 128 times as much
KEPT = 4  # streams that are kept for a network, and batch sizes that are remembered


class ShortCalls:
    """The streams of one network with one set of packed weights. Safe to use from many threads.

    Parameters
    ----------
    net : Net
        The sizes of the network.
    packed : Packed
        Its weights.
    """

    def __init__(self, net, packed):
        self._source, self._isa = _Source(net, packed), _engine.isa()
        self._streams = []  # those that no thread is using, the last used one at the end
        self._sizes = []  # batch sizes of the last calls for which there was no stream
        weights = net.cell.blocks * net.hidden_size * (net.input_size + net.output_size)
        self._most_sequences = MOST_STATE_BYTES // (net.output_size * net.dtype.itemsize)
        self._most_rows = max(MOST_ROWS, MOST_WORK // weights) if net.num_layers == 1 else MOST_ROWS
        if net.num_directions == 2 or net.reverse:
            self._most_sequences = 0

    def take(self, T, B):
        """A stream of B sequences, which no other thread gets before `give`; None if the general way is to be taken.

        Making a stream costs more than a call in the general way, so the first call with a batch size gets None.
        """
        if not 0 < T * B <= (self._most_rows if B <= MOST_SEQUENCES else MOST_ROWS) or B > self._most_sequences:
            return None
        if _engine.recording() is not None:
            return None
        if self._source.num_layers > 1 and stack.wave_pays(self._source.net, T, B):
            return None
        try:
            stream = self._streams.pop()
        except IndexError:
            return self._other(B, None)
        return stream if stream.batch_size == B else self._other(B, stream)

    def take_last(self, T, B):
        """The stream of the last short call, if `take` would return it; otherwise None."""
        try:
            last = self._streams[-1]
        except IndexError:
            return None
        return self.take(T, B) if last.batch_size == B else None

    def give(self, stream):
        """Put a stream back; the one that was used least recently is dropped when there are too many."""
        self._streams.append(stream)
        if len(self._streams) > KEPT:
            del self._streams[:-KEPT]

    def _other(self, B, popped):
        """A kept stream with this batch size, or a new one.

        None on the first call with this batch size, if the weights are packed for another instruction set, and if
        memory does not suffice for a stream.
        """
        if popped is not None:
            self._streams.append(popped)
        for stream in self._streams[::-1]:
            if stream.batch_size == B:
                try:
                    self._streams.remove(stream)
                except ValueError:  # another thread has taken it
                    continue
                return stream
        if B not in self._sizes:
            self._sizes = [*self._sizes[1 - KEPT :], B]
            return None
        if self._isa != _engine.isa():
            return None
        try:
            return _engine.Stream(self._source, B, None)
        except MemoryError:  # the general way may need less
            return None

    def run(self, stream, x, state):
        """Compute a call by a stream from `take`, and put the stream back.

        Parameters
        ----------
        stream : Stream
            Of B sequences.
        x : array, shape (T, B, I)
            Of the network's dtype.
        state : tuple of arrays, shapes (L, B, P) and (L, B, H), or None
            The initial h, and c of an LSTM; None for zeros.

        Returns
        -------
        y : array, shape (T, B, P)
            The output.
        state_n : tuple of arrays
            The final states, of the same shapes as `state`.
        """
        if state is None:
            stream.reset()
        else:
            for own, given in zip((stream.h, stream.c), state):
                own[:, :, : given.shape[2]] = given
        y = stream.run(x)
        state_n = [stream.h[:, :, : self._source.output_size].copy()]
        if stream.c is not None:
            state_n.append(stream.c[:, :, : self._source.hidden_size].copy())
        self.give(stream)
        return y, tuple(state_n)


class _Source:
    """What an engine's stream asks of the network that it steps through."""

    kind = "network"

    def __init__(self, net, packed):
        self.dtype, self.num_layers, self.input_size = net.dtype, net.num_layers, net.input_size
        self.output_size, self.hidden_size = net.output_size, net.hidden_size
        self.net, self._packed = net, packed

    def _stream_layers(self, context):
        return stream_layers(self.net, self._packed, context)

    def _stream_initial(self):
        return None


def stream_layers(net, packed, context):
    """(LayerWeights of each layer, bias rows of the first layer with a context or None) for a stream."""
    weights = [packed.layer(f"_l{layer}") for layer in range(net.num_layers)]
    return weights, stack.context_bias(packed, "_l0", context)
