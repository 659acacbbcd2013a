"""Check the docstrings of all public names with numpydoc: sections, parameters, results.

    python docs/docstrings.py [NAME ...]      all of fastrnn, or only names with these prefixes: fastrnn.optim

Prints a line for each fault. The exit status is 1 if there are any.
"""

import importlib
import inspect
import os
import sys

from numpydoc.validate import validate

os.environ.setdefault("KERAS_BACKEND", "torch")

MODULES = (
    *("batches", "callbacks", "convert", "data", "distributed", "keras", "losses", "models", "onnx", "optim"),
    *("parameters", "plans", "plotting", "search", "settings", "sklearn", "threadpoolctl", "torch"),
)
NEEDS = {"keras": "keras", "onnx": "onnx", "sklearn": "sklearn", "torch": "torch", "threadpoolctl": "threadpoolctl"}

# Not required: extended summaries, "See Also" and examples everywhere; shapes and descriptions as full sentences.
LEFT_OUT = {"ES01", "SA01", "SA04", "EX01", "PR05", "PR08", "PR09", "RT04", "RT05", "GL01", "GL02", "SS05", "SS06"}


def public_names():
    """Return the names of the public functions and classes, and of the methods that these classes define."""
    import fastrnn

    found = {f"fastrnn.{name}": getattr(fastrnn, name) for name in fastrnn.__all__}
    for part in MODULES:
        if part in NEEDS and importlib.util.find_spec(NEEDS[part]) is None:
            print(f"fastrnn.{part} is not checked: {NEEDS[part]} is not installed", file=sys.stderr)
            continue
        module = importlib.import_module(f"fastrnn.{part}")
        names = getattr(module, "__all__", None)
        if names is None:
            names = [
                name
                for name, value in vars(module).items()
                if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
            ]
        found |= {f"fastrnn.{part}.{name}": getattr(module, name) for name in names}
    for name, value in list(found.items()):
        if inspect.isclass(value):
            members = [owner for owner in value.__mro__ if owner.__module__.split(".")[0] == "fastrnn"]
            for member in sorted({member for owner in members for member in vars(owner)}):
                attribute = inspect.getattr_static(value, member)
                known = isinstance(attribute, (staticmethod, classmethod, property)) or inspect.isfunction(attribute)
                if known and (member == "__call__" or not member.startswith("_")):
                    found[f"{name}.{member}"] = attribute
    kinds = (property, classmethod)
    return [
        name  # not of instances, such as softmax_cross_entropy, which have the docstring of their class
        for name, value in found.items()
        if inspect.isclass(value) or inspect.isroutine(value) or isinstance(value, kinds)
    ]


def main(prefixes):
    faults = checked = 0
    for name in public_names():
        if prefixes and not name.startswith(prefixes):
            continue
        checked += 1
        for code, text in validate(name)["errors"]:
            if code not in LEFT_OUT:
                print(f"{name}: {code} {text}")
                faults += 1
    print(f"{checked} docstrings checked, {faults} faults", file=sys.stderr)
    return faults > 0


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:])))
