"""Generation of text by a LanguageModel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastrnn import _check
from fastrnn.layers.network import Network
from fastrnn.models.language_network import LanguageNetwork
from fastrnn.models.sampler import Sampler
from fastrnn.models.streaming import TextStream


class TextGenerator(LanguageNetwork):
    """Base of LanguageModel that generates text."""

    def stream(self, batch_size: int = 1) -> TextStream:
        """Read texts symbol by symbol, with the probabilities of the next symbol after each.

        Parameters
        ----------
        batch_size : int, default=1
            Number of texts, which are read in parallel.

        Returns
        -------
        TextStream
            The stream, before the first symbol. ``step(symbol)`` returns the log-probabilities of the next symbol;
            ``run(text)`` reads several symbols; ``reset(rows=None)`` begins new texts.
        """
        self._check_fitted()
        network = Network({name: getattr(self, name) for name in self.LAYERS})
        return TextStream(network, batch_size, self.vocabulary)

    def generate(
        self,
        prompt: str | bytes = "",
        length: int = 300,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> str:
        """Generate text that continues a prompt.

        Parameters
        ----------
        prompt : str or bytes, default=""
            The text before. By default generation starts after a line break if the model knows it, else after a random
            symbol. At the word level the prompt should not end in a blank, which belongs to the next word. Bytes are
            allowed at the byte level only.
        length : int, default=300
            Number of symbols (characters, words or bytes).
        temperature : float, default=1.0
            Divides the logits. Below 1, unlikely symbols are drawn less often; 0 always takes the most likely symbol.
        top_k : int, optional
            Draw only from the k most likely symbols.
        top_p : float, optional
            Draw only from the smallest set of symbols whose total probability is at least this, 0 < top_p <= 1.
        seed : int, optional
            Seed of the draws: the same seed generates the same text. By default a random one is drawn.

        Returns
        -------
        str
            The generated text, without the prompt.

        Raises
        ------
        ValueError
            If the prompt has characters that the model does not know, or if an argument is out of its range.
        """
        return "".join(self.generate_iter(prompt, length, temperature, top_k, top_p, seed))

    def generate_iter(
        self,
        prompt: str | bytes = "",
        length: int = 300,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Generate text that continues a prompt, symbol by symbol.

        Parameters
        ----------
        prompt : str or bytes, default=""
            The text before. By default generation starts after a line break if the model knows it, else after a random
            symbol. At the word level the prompt should not end in a blank, which belongs to the next word. Bytes are
            allowed at the byte level only.
        length : int, default=300
            Number of symbols (characters, words or bytes).
        temperature : float, default=1.0
            Divides the logits. Below 1, unlikely symbols are drawn less often; 0 always takes the most likely symbol.
        top_k : int, optional
            Draw only from the k most likely symbols.
        top_p : float, optional
            Draw only from the smallest set of symbols whose total probability is at least this, 0 < top_p <= 1.
        seed : int, optional
            Seed of the draws: the same seed generates the same text. By default a random one is drawn.

        Returns
        -------
        iterator of str
            Each symbol as soon as it is drawn; at the byte level, each character as soon as its last byte is.

        Raises
        ------
        ValueError
            If the prompt has characters that the model does not know, or if an argument is out of its range.
        """
        self._check_fitted()
        length = _check.size("length", length, least=0)
        draw = Sampler(temperature, top_k, top_p, seed)
        if not prompt:
            line_break = self.vocabulary.find("\n")
            if line_break is None:
                line_break = draw(self._allowed(np.zeros(len(self.vocabulary))))
            ids = np.array([line_break])
        else:
            ids = self.vocabulary.encode(prompt, "the prompt")
        return self.vocabulary.pieces(self._write(ids, length, draw), before=ids)

    def _write(self, ids, length, draw):
        """Draw the ids that follow, one by one."""
        rows = self.embedding.params["weight"]
        stream = self.rnn.stream()
        h = stream.run(rows[ids][:, None])[-1]
        logits = np.empty((1, len(self.vocabulary)), self.dtype)
        for i in range(length):
            symbol = draw(self._allowed(self.linear(h, out=logits)[0]))
            yield symbol
            if i + 1 < length:
                h = stream.step(rows[symbol : symbol + 1], out=h)

    def _allowed(self, logits):
        """Set the logit of the unknown word to minus infinity, in place."""
        if self.vocabulary.unknown is not None:
            logits[self.vocabulary.unknown] = -np.inf
        return logits
