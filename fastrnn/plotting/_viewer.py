"""A page that shows the activation of each unit of a character model, as the colour of the text."""

from __future__ import annotations

import base64
import html
import json
import os
from pathlib import Path

import numpy as np

from fastrnn._files import disk
from fastrnn.losses import softmax_cross_entropy
from fastrnn.models import LanguageModel
from fastrnn.models.text import read_text
from fastrnn.plotting._figure import PathLike, check_folder, printable

MAX_MEGABYTES = 50  # size of a page


def activations(
    model: LanguageModel, text: str | Path, path: PathLike | None = None, *, title: str | None = None
) -> str:
    """Make an HTML page that shows a text coloured by the activation of one unit after each character.

    The unit is chosen on the page, among the h of all layers and for an LSTM also tanh(c). The colour can also show the
    probability that the model gave to each character, or its surprise, -log2 of the probability. The page is one file
    that loads nothing else. Needs no matplotlib.

    Parameters
    ----------
    model : LanguageModel
        A fitted model.
    text : str or pathlib.Path
        The text, or a UTF-8 file; the model must know its characters.
    path : str or path-like, optional
        File to write, .html.
    title : str, optional
        Heading of the page; by default the size of the model and of the text.

    Returns
    -------
    str
        The page.

    Raises
    ------
    RuntimeError
        If the model has not been fitted, or has states that are NaN or infinite.
    ValueError
        If the text is empty, has characters that the model does not know, or would make a page of more than 50 MB.
    TypeError
        If `model` is not a LanguageModel.

    Notes
    -----
    A value is stored in 8 bits, with an error of up to 1/254; a page takes 4/3 bytes for each character and unit.

    References
    ----------
    Karpathy, Johnson and Fei-Fei, Visualizing and understanding recurrent networks, 2015.

    Examples
    --------
    >>> import fastrnn
    >>> model = fastrnn.models.LanguageModel("gru", 8, seed=0)
    >>> model = model.fit("to be or not to be " * 20, epochs=1, batch_size=4, seq_len=10, verbose=False)
    >>> page = fastrnn.plotting.activations(model, "to be or not")
    >>> page.startswith("<!DOCTYPE html>"), "http" in page
    (True, False)
    """
    if not isinstance(model, LanguageModel):
        raise TypeError(f"model is {type(model).__name__}, but it must be a LanguageModel, whose steps are characters")
    model._check_fitted()
    text = read_text(text)
    ids = model.vocabulary.encode(text)
    units = model.num_layers * model.hidden_size * (2 if model.rnn.cell.has_c else 1) + 2
    _check_size(len(ids), units)
    if path is not None:
        path = Path(os.fspath(path))
        check_folder(path, "page")
    if title is None:
        title = f"{model.rnn.kind}, {model.num_layers} × {model.hidden_size} units, {len(ids):,} characters"
    title = printable(title)
    data = {"points": [ord(character) for character in text], "groups": _groups(model, ids)}
    page = PAGE.replace("{data}", json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")).replace(
        "{title}", html.escape(title)
    )
    page = page.encode("ascii", "xmlcharrefreplace").decode("ascii")
    if path is not None:
        disk.write_output(path, lambda file: file.write_all([page.encode("ascii")]))
    return page


def _check_size(T: int, units: int) -> None:
    """Refuse a page that is too large for browsers."""
    megabytes = T * (units * 4 / 3 + 8) / 1e6
    if megabytes > MAX_MEGABYTES:
        most = int(MAX_MEGABYTES * T / megabytes)
        raise ValueError(
            f"{T:,} characters of {units:,} units would make a page of {megabytes:,.0f} MB, but at most "
            f"{MAX_MEGABYTES} MB are allowed: give at most {most:,} characters"
        )


def _groups(model: LanguageModel, ids: np.ndarray) -> list[dict[str, object]]:
    """Compute what can be chosen on the page: for each group its name, its scale, and the values of its units."""
    kinds = ["h", "tanh(c)"][: 2 if model.rnn.cell.has_c else 1]
    states, y = _states(model, ids)
    nll = np.zeros(len(ids))
    if len(ids) > 1:
        nll[1:] = softmax_cross_entropy(model.linear(y[:-1, 0]), ids[1:], reduction="none")
    if not np.isfinite(nll).all():
        wrong = int(np.flatnonzero(~np.isfinite(nll))[0])
        raise RuntimeError(f"the model's probability of character {wrong} is not a number: the text cannot be shown")
    bits = nll / np.log(2)
    scale = max(1.0, float(bits.max()))
    probability = np.exp(-nll)
    probability[0] = 0.0  # the first character is not predicted
    groups = [
        {"name": f"layer {layer + 1}, {kind}", "scale": 1, "values": _base64(states[k, layer])}
        for layer in range(model.num_layers)
        for k, kind in enumerate(kinds)
    ]
    for name, of_group, values in (("probability", 1, probability), ("surprise (bits)", round(scale, 4), bits / scale)):
        groups.append({"name": name, "scale": of_group, "predicted": 1, "values": _base64(_bytes(values[None]))})
    return groups


def _states(model: LanguageModel, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run the model over a text, and return the states (1 or 2, layers, units, T), int8, and the outputs (T, 1, H)."""
    rows, T, has_c = model.embedding.params["weight"], len(ids), model.rnn.cell.has_c
    stream = model.rnn.stream()
    y = np.empty((T, 1, model.hidden_size), model.dtype)
    states = np.empty((2 if has_c else 1, model.num_layers, model.hidden_size, T), np.int8)
    for t, symbol in enumerate(ids):
        stream.step(rows[symbol : symbol + 1], out=y[t])
        h, c = stream.state if has_c else (stream.state, None)
        if not all(np.isfinite(state).all() for state in (h, c) if state is not None):
            raise RuntimeError(f"the states of the model are not finite after character {t}: they cannot be shown")
        states[0, ..., t] = _bytes(h[:, 0])
        if c is not None:
            states[1, ..., t] = _bytes(np.tanh(c[:, 0]))
    return states, y


def _bytes(values: np.ndarray) -> np.ndarray:
    """Convert numbers from -1 to 1 to int8 from -127 to 127."""
    return np.rint(values * 127).astype(np.int8)


def _base64(units: np.ndarray) -> list[str]:
    return [base64.b64encode(np.ascontiguousarray(unit)).decode("ascii") for unit in units]


PAGE = r"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #111; font: 15px/1.4 system-ui, sans-serif; }
header { position: sticky; top: 0; background: #fffffff2; border-bottom: 1px solid #ddd; padding: 10px 24px; }
h1 { font-size: 17px; margin: 0 0 6px; }
.controls { display: flex; flex-wrap: wrap; gap: 8px 18px; align-items: center; }
select, input { font: inherit; }
#number { width: 5em; }
#slider { width: 260px; vertical-align: middle; }
.scale { display: inline-block; width: 120px; height: 12px; border: 1px solid #ccc; margin: 0 6px; }
.scale { vertical-align: middle; }
#info { color: #444; min-height: 1.4em; margin-top: 6px; font-variant-numeric: tabular-nums; }
kbd { border: 1px solid #bbb; border-radius: 3px; padding: 0 4px; font-size: 12px; background: #f5f5f5; }
.keys { color: #666; font-size: 13px; }
#text { margin: 16px 24px; font: 15px/1.6 ui-monospace, "DejaVu Sans Mono", monospace; }
#text { white-space: pre-wrap; overflow-wrap: anywhere; }
#text span:hover { outline: 1px solid #000; }
.mark { color: #0007; }
</style>
</head>
<body>
<header>
<h1>{title}</h1>
<div class="controls">
<label>show <select id="group"></select></label>
<label id="units">unit <input id="number" type="number" min="0"> <input id="slider" type="range" min="0"></label>
<span><span id="low"></span><span class="scale" id="scale"></span><span id="high"></span></span>
<span class="keys"><kbd>&larr;</kbd> <kbd>&rarr;</kbd> unit, <kbd>&uarr;</kbd> <kbd>&darr;</kbd> layer</span>
</div>
<div id="info">Point at a character.</div>
</header>
<main id="text"></main>
<script id="data" type="application/json">{data}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const spans = [];
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}]/u;  // controls, direction marks, lone surrogates
let group = 0, unit = 0, values = null;

function visible(point) {
  if (point === 10) return "\u21b5";
  if (point === 9) return "\u21e5\t";
  const character = String.fromCodePoint(point);
  if (INVISIBLE.test(character)) return "\u00b7";
  return /\p{M}/u.test(character) ? "\u25cc" + character : character;
}

function write() {
  const all = document.createDocumentFragment();
  data.points.forEach((point, t) => {
    const span = document.createElement("span");
    span.textContent = visible(point);
    span.dataset.t = t;
    if (INVISIBLE.test(String.fromCodePoint(point))) span.className = "mark";
    spans.push(span);
    all.append(span);
    if (point === 10) all.append("\n");
  });
  byId("text").append(all);
}

function colour(v) {  // -1 blue, 0 white, 1 red
  const fade = Math.round(255 - 190 * Math.abs(v));
  return v < 0 ? `rgb(${fade},${Math.round(255 - 120 * -v)},255)` : `rgb(255,${fade},${fade})`;
}

function decode(text) {
  return Int8Array.from(atob(text), c => c.charCodeAt(0) << 24 >> 24);
}

function show() {
  const chosen = data.groups[group], last = chosen.values.length - 1;
  unit = Math.max(0, Math.min(unit, last));
  values = decode(chosen.values[unit]);
  spans.forEach((span, t) => { span.style.backgroundColor = colour(values[t] / 127); });
  byId("group").value = group;
  byId("units").style.visibility = last ? "visible" : "hidden";
  for (const id of ["number", "slider"]) { byId(id).max = last; byId(id).value = unit; }
  byId("low").textContent = chosen.predicted ? 0 : -chosen.scale;
  byId("high").textContent = +chosen.scale.toFixed(1);
  const stops = chosen.predicted ? [0, 0.5, 1] : [-1, -0.5, 0, 0.5, 1];
  byId("scale").style.background = `linear-gradient(to right, ${stops.map(colour).join(",")})`;
  try { history.replaceState(null, "", `#${group}/${unit}`); } catch (error) { location.hash = `${group}/${unit}`; }
}

function choose(newGroup, newUnit) {
  group = Math.max(0, Math.min(newGroup, data.groups.length - 1));
  unit = newUnit;
  show();
}

function fromAddress() {
  const found = /^#(\d+)\/(\d+)$/.exec(location.hash);
  if (found) choose(+found[1], +found[2]); else show();
}

function describe(event) {
  if (event.target.dataset.t === undefined) return;
  const t = +event.target.dataset.t, chosen = data.groups[group], point = data.points[t];
  const name = "U+" + point.toString(16).toUpperCase().padStart(4, "0");
  const value = chosen.predicted && t === 0 ? "not predicted" : (values[t] / 127 * chosen.scale).toFixed(3);
  byId("info").textContent = `character ${t}: ${visible(point).trim() || "space"} (${name}), ${chosen.name}` +
    (chosen.values.length > 1 ? `, unit ${unit}` : "") + `: ${value}`;
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  choose(group + move[0], unit + move[1]);
}

data.groups.forEach((one, k) => byId("group").add(new Option(one.name, k)));
byId("group").addEventListener("change", () => choose(+byId("group").value, unit));
for (const id of ["number", "slider"]) {
  byId(id).addEventListener("input", () => { if (byId(id).value !== "") choose(group, +byId(id).value); });
}
byId("text").addEventListener("mouseover", describe);
document.addEventListener("keydown", key);
addEventListener("hashchange", fromAddress);
write();
fromAddress();
</script>
</body>
</html>
"""
