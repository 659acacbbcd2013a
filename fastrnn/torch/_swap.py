"""Swap the recurrent layers of a torch model: torch's for fastrnn's, and back."""

from __future__ import annotations

from torch import nn

from fastrnn.torch import _checks
from fastrnn.torch._modules import GRU, LSTM, RNN, TORCH_LISTS, Cell, GRUCell, LSTMCell, RNNCell

_OURS = {nn.RNN: RNN, nn.GRU: GRU, nn.LSTM: LSTM, nn.RNNCell: RNNCell, nn.GRUCell: GRUCell, nn.LSTMCell: LSTMCell}


def replace(model: nn.Module) -> list[str]:
    """Make every recurrent layer and cell of torch.nn in a model compute with fastrnn.

    The modules are changed in place: their parameters stay the same objects, so optimisers and hooks keep working.

    Parameters
    ----------
    model : torch.nn.Module
        The model, or a recurrent layer or cell itself.

    Returns
    -------
    list of str
        The names of the layers that were swapped; ``""`` is the model itself.

    Raises
    ------
    ValueError
        If there are recurrent layers that cannot be swapped. The message names them and the reasons, and no layer is
        swapped.

    Examples
    --------
    >>> import torch, fastrnn.torch
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "head": torch.nn.Linear(4, 2)})
    >>> fastrnn.torch.replace(model), fastrnn.torch.restore(model)
    (['rnn'], ['rnn'])
    """
    refused = [
        f"{name or 'the model'}: {reason}" for name, module in model.named_modules() if (reason := _reason(module))
    ]
    if refused:
        raise ValueError("fastrnn.torch.replace can't take " + "; ".join(refused) + "; nothing was swapped")
    return _swap(model, _OURS)


def _reason(module):
    """Why this recurrent layer cannot be swapped, or None."""
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or isinstance(module, Cell):
        return None
    if type(module) not in _OURS:
        return f"{type(module).__name__} is a subclass of torch's class (a parametrization makes one too)"
    for p in module.parameters():
        if p.dtype not in _checks.DTYPES or p.device.type != "cpu":
            return f"its parameters are {p.dtype} on {p.device}, but must be float32 or float64 on cpu"
    return None


def restore(model: nn.Module) -> list[str]:
    """Undo `replace`: make the recurrent layers and cells of fastrnn in a model those of torch.nn again.

    Parameters
    ----------
    model : torch.nn.Module
        The model, or a recurrent layer or cell itself.

    Returns
    -------
    list of str
        The names of the layers that are torch's again; ``""`` is the model itself.

    Raises
    ------
    ValueError
        If there are layers of a subclass of fastrnn.torch's classes, such as a parametrization makes. The message names
        them, and no layer is restored.
    """
    refused = [
        f"{name or 'the model'}: {type(module).__name__} is a subclass of {ours.__name__}"
        for name, module in model.named_modules()
        for ours in _OURS.values()
        if isinstance(module, ours) and type(module) is not ours
    ]
    if refused:
        raise ValueError(
            "fastrnn.torch.restore can't take " + "; ".join(refused) + "; nothing was restored. "
            "If it is parametrized, call torch.nn.utils.parametrize.remove_parametrizations first"
        )
    return _swap(model, {ours: theirs for theirs, ours in _OURS.items()})


def _swap(model, classes):
    found = [(name, module) for name, module in model.named_modules() if type(module) in classes]
    for _, module in found:
        for name in TORCH_LISTS:
            module.__dict__.pop(name, None)
        module.__class__ = classes[type(module)]
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return [name for name, _ in found]
