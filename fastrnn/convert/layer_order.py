"""The order in which the layers of a state_dict are used, inferred from their names and sizes."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_MOST_MODULES = 100  # more are not searched for orders
_MOST_TRIALS = 10_000
KINDS = ("embedding", "linear")  # what a weight without bias can be; may follow a layer's name in an order


@dataclass(frozen=True)
class Kind:
    """What a module can be, with the number of features it takes, None for ids, and returns."""

    name: str
    takes: int | None
    gives: int


def choose(modules, given=None, kept=True):
    """Find the order of the modules of a chain.

    Parameters
    ----------
    modules : dict of str to list of Kind
        What each module can be, in the order of the file. A weight without bias has two kinds.
    given : list of str, optional
        Order that the user gave: names, alone or as "name:embedding" or "name:linear".
    kept : bool
        Whether the file keeps the order in which the modules were defined.

    Returns
    -------
    chosen : dict of str to Kind
        The modules in the order of use.
    reason : str
        Why this order was chosen.

    Raises
    ------
    ValueError
        The order is ambiguous, or does not fit the sizes.
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
            "it is the order of the file, which is that of their definition; use --order for another one",
        )
    found = _chains(modules, numbers=True) if free is None or free else free
    if found is not None and len(found) == 1:
        return found[0], "it is that of the numbers in their names; use --order for another one"
    if found is not None and not found:
        _raise_no_chain(modules)
    if found and list(found[0]) == list(found[1]):
        return _fitted(modules, list(found[0])), ""  # raises, as the two differ in what a table is
    raise ValueError(
        f"the order in which the {len(names)} layers are used is ambiguous: "
        f"{'the file does not keep it, and ' if not kept else ''}"
        "more than one fits their sizes. Specify it with --order, for example --order "
        f"{','.join(found[0] if found else sorted(names, key=_natural))}"
        + (f" or --order {','.join(found[1])}" if found else "")
    )


def _given(modules, given):
    """Parse a given order; returns the names, and the modules with the given kinds."""
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
    """Return {name: Kind} for an order; raise a ValueError if it does not fit or is ambiguous."""
    found = _kinds(modules, names)
    if len(found) > 1:
        name = names[0]
        raise ValueError(
            f"{name!r} has a weight without bias, so it can be an Embedding or a Linear: write it as "
            f"{name}:embedding or {name}:linear in "
            f"--order {','.join([f'{name}:embedding', *names[1:]])}"
        )
    if not found:
        end = next(k for k in range(1, len(names)) if not _kinds(modules, names[: k + 1]))
        gives = " or ".join(str(one[names[end - 1]].gives) for one in _kinds(modules, names[:end]))
        takes = " or ".join(f"{k.takes} features" for k in modules[names[end]] if k.takes is not None) or "ids"
        raise ValueError(
            f"layer {names[end]!r} takes {takes}, but the layer before it gives {gives} features: if the order is "
            "wrong, specify it with --order"
        )
    return found[0]


def _kinds(modules, names):
    """Return all ways to read the modules in this order as a chain: at most two, as only the first can take ids."""
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
    """Find the first two chains of all modules, {name: Kind} each; returns None if there are too many to try.

    numbers : whether the numbers in the names must increase
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
    raise ValueError(f"these layers do not form a chain in any order, as their sizes do not match: {sizes}")


def _size(kind):
    return f"{'ids' if kind.takes is None else kind.takes} to {kind.gives} features"


def _natural(name):
    """Return a sort key that orders numbers in names numerically."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _rises(a, b):
    """Whether the names first differ in numbers only, and the number of a is smaller."""
    for one, other in zip(a.split("."), b.split(".")):
        if one != other:
            alike = re.sub(r"\d+", "#", one) == re.sub(r"\d+", "#", other)
            return alike and [int(n) for n in re.findall(r"\d+", one)] < [int(n) for n in re.findall(r"\d+", other)]
    return False


def _against_numbers(names):
    """Whether a number in the names decreases in this order."""
    if len(names) > _MOST_MODULES:
        return False
    return any(_rises(later, name) for k, name in enumerate(names) for later in names[k + 1 :])
