"""The order in which the layers of a state_dict are used, from their names and sizes, and what that answer rests on."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_MOST_MODULES = 100  # of which orders are tried
_MOST_TRIALS = 10_000
KINDS = ("embedding", "linear")  # what a table without bias may be; the names that may follow a layer's in an order


@dataclass(frozen=True)
class Kind:
    """What a module may be: how many features it takes, None for ids, and how many it gives."""

    name: str
    takes: int | None
    gives: int


def choose(modules, given=None, kept=True):
    """The order of the modules of a chain.

    Parameters
    ----------
    modules : {name: [Kind, …]}, in the order of the file; a table without bias has two kinds
    given : the order as the user says it, a list of names, each alone or as "name:embedding" or "name:linear"; or None
    kept : whether the file keeps the order in which the modules were defined

    Returns
    -------
    ({name: Kind} in the order of use, what the order rests on, in words)

    Raises
    ------
    ValueError  the order cannot be known, or does not fit the sizes; the message says what to give.
    """
    if given is not None:
        names, modules = _given(modules, given)
        return _fitted(modules, names), "it was given with --order"
    names = list(modules)
    if len(names) == 1:
        return _fitted(modules, names), "it is the only layer"
    free = _chains(modules)
    if free is not None and len(free) == 1:
        return free[0], "no other order fits their sizes"
    if kept and not _against_numbers(names) and (not free or _kinds(modules, names)):
        return (
            _fitted(modules, names),
            "it is the order of the file, in which torch keeps that of their definition; another one is given with "
            "--order",
        )
    found = _chains(modules, numbers=True) if free is None or free else free
    if found is not None and len(found) == 1:
        return found[0], "it is that of the numbers in their names; another one is given with --order"
    if found is not None and not found:
        _raise_no_chain(modules)
    if found and list(found[0]) == list(found[1]):
        return _fitted(modules, list(found[0])), ""  # raises, as the two differ in what a table is
    raise ValueError(
        f"the order in which the {len(names)} layers are used is not known: "
        f"{'the file does not keep it, and ' if not kept else ''}"
        "more than one fits their sizes. Give it with --order, as --order "
        f"{','.join(found[0] if found else sorted(names, key=_natural))}"
        + (f" or --order {','.join(found[1])}" if found else "")
    )


def _given(modules, given):
    """(names, modules) with the kinds that the user says."""
    modules, names = dict(modules), []
    for text in given:
        name, colon, kind = text.rpartition(":")
        if text in modules or not colon:
            name, kind = text, None
        if name not in modules:
            raise ValueError(f"--order names {name!r}, but the layers are {', '.join(modules)}")
        if kind is not None:
            kinds = [k for k in modules[name] if k.name == kind]
            if not kinds:
                raise ValueError(
                    f"--order calls {name!r} a {kind!r}, but it can only be: {', '.join(k.name for k in modules[name])}"
                )
            modules[name] = kinds
        names.append(name)
    twice, missing = sorted({n for n in names if names.count(n) > 1}), [n for n in modules if n not in names]
    if twice or missing:
        what = f"names {twice[0]!r} twice" if twice else f"leaves out {', '.join(missing)}"
        raise ValueError(f"--order {what}: it must name each of the {len(modules)} layers once: {', '.join(modules)}")
    return names, modules


def _fitted(modules, names):
    """{name: Kind} of this order; raises where the sizes do not fit or a table may be two things."""
    found = _kinds(modules, names)
    if len(found) > 1:
        name = names[0]
        raise ValueError(
            f"whether {name!r}, a table without bias, is looked up by ids or multiplies is not known: write it as "
            f"{name}:embedding or {name}:linear in "
            f"--order {','.join([f'{name}:embedding', *names[1:]])}"
        )
    if not found:
        end = next(k for k in range(1, len(names)) if not _kinds(modules, names[: k + 1]))
        gives = " or ".join(str(one[names[end - 1]].gives) for one in _kinds(modules, names[:end]))
        takes = " or ".join(f"{k.takes} features" for k in modules[names[end]] if k.takes is not None) or "ids"
        raise ValueError(
            f"layer {names[end]!r} takes {takes}, but what is before it gives {gives} features: is the order another "
            "one? --order says it"
        )
    return found[0]


def _kinds(modules, names):
    """All ways to read the modules in this order as a chain: at most two, as only the first one may take ids."""
    found = [{names[0]: kind} for kind in modules[names[0]]]
    for before, name in zip(names, names[1:]):
        found = [
            {**one, name: kind}
            for one in found
            for kind in modules[name]
            if kind.takes is not None and kind.takes == one[before].gives
        ]
    return found


class _TooManyError(Exception):
    pass


def _chains(modules, numbers=False):
    """The first two chains of all the modules, {name: Kind} each; None if that is too much to try.

    numbers : whether the numbers in their names must rise
    """
    if len(modules) > _MOST_MODULES:
        return None
    before = {name: {other for other in modules if numbers and _rises(other, name)} for name in modules}
    path, trials = {}, itertools.count()

    def walk(gives):
        if len(path) == len(modules):
            yield dict(path)
        elif next(trials) > _MOST_TRIALS:
            raise _TooManyError
        for name in [name for name in modules if name not in path and before[name] <= path.keys()]:
            for kind in modules[name]:
                if not path or (kind.takes is not None and kind.takes == gives):
                    path[name] = kind
                    yield from walk(kind.gives)
                    del path[name]

    try:
        return list(itertools.islice(walk(None), 2))
    except _TooManyError:
        return None


def _raise_no_chain(modules):
    sizes = ", ".join(f"{name} ({' or '.join(_size(k) for k in kinds)})" for name, kinds in modules.items())
    raise ValueError(
        "no order makes a chain of these layers, in which each takes the features that the one before it gives: "
        f"{sizes}"
    )


def _size(kind):
    return f"{'ids' if kind.takes is None else kind.takes} to {kind.gives} features"


def _natural(name):
    """A key that sorts numbers in names as numbers."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _rises(a, b):
    """Whether a stands before b by a number: where the names first differ, it is in numbers only, and a's is smaller."""
    for one, other in zip(a.split("."), b.split(".")):
        if one != other:
            alike = re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)
            return alike and [int(n) for n in re.findall(r"\d+", one)] < [int(n) for n in re.findall(r"\d+", other)]
    return False


def _against_numbers(names):
    """Whether a number in the names falls in this order."""
    if len(names) > _MOST_MODULES:
        return False
    return any(_rises(later, name) for k, name in enumerate(names) for later in names[k + 1 :])
