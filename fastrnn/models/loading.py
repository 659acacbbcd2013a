"""Loading of a saved model of any kind."""

from __future__ import annotations

import os

from fastrnn import models
from fastrnn._files import storage
from fastrnn._files.schema import shown
from fastrnn.layers.network import Network
from fastrnn.models.model import Model


def load(directory: str | os.PathLike, wanted: type[Model] | None = None) -> Model | Network:
    """Load the model in a directory, of whatever kind it is.

    Parameters
    ----------
    directory : path
        The directory that `save` wrote.
    wanted : type, optional
        The only class that is accepted.

    Returns
    -------
    model : Model or Network
        The model.

    Raises
    ------
    FileNotFoundError
        There is no model.
    ValueError
        The model is damaged, or of another kind than `wanted`.
    """
    arrays, config = storage.load(directory)
    found = config.get("model")
    if found == "Network" and wanted is None:
        return Network._of(arrays, config, directory)
    if found not in models.__all__ or (wanted is not None and found != wanted.__name__):
        needs = f"a {wanted.__name__}" if wanted is not None else f"one of {', '.join(models.__all__)}"
        raise ValueError(
            f"{directory} holds a {found if isinstance(found, str) else shown(found)}, but this needs {needs}"
        )
    return getattr(models, found)._of(arrays, config, directory)
