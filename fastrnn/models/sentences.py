"""Tagged sentences as batches of the SequenceTagger."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from fastrnn.batches import Ragged, Sequences
from fastrnn.models import unseen

UNKNOWN = 0  # id of a word or character that occurs too rarely in the training data, or not at all


class SentenceBatch(NamedTuple):
    """Some sentences. Each distinct word form is spelt once."""

    sentences: Ragged  # of form ids
    forms: list[str]  # (U,) the distinct forms of this batch
    which: np.ndarray  # (T, B) indices into `forms`
    word_ids: np.ndarray  # (T, B)
    targets: np.ndarray | None  # (T, B)


class Sentences(Sequences):
    """Batches of tagged sentences. `model` has the ids of words and tags; `tags` may be None."""

    def __init__(self, model, sentences, tags, batch_size, max_steps, seed):
        self._forms = sorted({word for sentence in sentences for word in sentence})
        form_id = {form: i for i, form in enumerate(self._forms)}
        self._word_ids = np.array([model._word_id.get(form, UNKNOWN) for form in self._forms])
        ids = [np.array([form_id[word] for word in sentence]) for sentence in sentences]
        super().__init__(ids, batch_size, max_steps=max_steps, seed=seed)
        self._targets = None
        if tags is not None:
            ids = unseen.encode([tag for row in tags for tag in row], model._tag_id, "tags", unseen.HELD_OUT)
            self._targets = np.split(np.array(ids, np.int64), np.cumsum(self._lengths)[:-1])

    def _batch(self, rows):
        ragged = self._ragged(rows)
        some, which = np.unique(ragged.x, return_inverse=True)
        targets = None
        if self._targets is not None:
            targets = np.zeros(ragged.x.shape, np.int64)
            for b, row in enumerate(rows):
                targets[: ragged.lengths[b], b] = self._targets[row]
        forms = [self._forms[k] for k in some]
        return SentenceBatch(ragged, forms, which.reshape(ragged.x.shape), self._word_ids[ragged.x], targets)

    @staticmethod
    def steps_of(batch: SentenceBatch) -> int:
        """Number of words of a batch."""
        return int(batch.sentences.lengths.sum())

    def digest(self) -> str:
        """A hash of the data, by which a checkpoint identifies them."""
        found = hashlib.sha256("\0".join(self._forms).encode("utf-8", "surrogatepass"))
        for row in (*self._x, *self._targets):
            found.update(row.tobytes())
        return found.hexdigest()[:12]
