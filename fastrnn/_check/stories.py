"""Checks of stories and questions."""

from __future__ import annotations


def stories(X, y=None):
    """Check N pairs (story, question) and N answers; returns tuples of words, and the answers or None.

    A story becomes a list of tuples of words, a question a tuple of words.
    """
    known = set()
    found = []
    for n, pair in enumerate(X):
        if isinstance(pair, str) or not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"question {n} is {_shown(pair)}, but it must be a pair (story, question)")
        story, question = pair
        if isinstance(story, str):
            raise TypeError(
                f"the story of question {n} is the str {story[:40]!r}, but it must be a list of sentences, each a list "
                "of words"
            )
        if not len(story):
            raise ValueError(f"the story of question {n} has no sentences: leave the question out")
        story = [
            _sentence(sentence, known, f"sentence {k} of the story of question {n}") for k, sentence in enumerate(story)
        ]
        found.append((story, _sentence(question, known, f"question {n}")))
    if not found:
        raise ValueError("there are no questions")
    if y is None:
        return found, None
    answers = list(y)
    if len(answers) != len(found):
        raise ValueError(f"y has {len(answers)} answers, but there are {len(found)} questions")
    for n, answer in enumerate(answers):
        if not isinstance(answer, str) or not answer:
            raise TypeError(f"the answer to question {n} is {answer!r}, but it must be a str of at least one character")
    return found, [str(answer) for answer in answers]


def _sentence(words, known, name):
    """Check a sentence; returns a tuple of words. known : sentences that were checked before."""
    if isinstance(words, str):
        raise TypeError(f"{name} is the str {words[:40]!r}, but it must be a list of words")
    try:
        sentence = tuple(words)
        if sentence in known:
            return sentence
    except TypeError:
        raise TypeError(f"{name} is {_shown(words)}, but it must be a list of words") from None
    if not sentence:
        raise ValueError(f"{name} has no words")
    for k, word in enumerate(sentence):
        if not isinstance(word, str) or not word:
            raise ValueError(f"word {k} of {name} is {word!r}, but it must be a str of at least one character")
    known.add(sentence)
    return sentence


def _shown(value):
    return f"the str {value[:40]!r}" if isinstance(value, str) else f"a {type(value).__name__}"
