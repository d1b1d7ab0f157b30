"""Stored cells that can be compared, with the tables behind their scores."""

import io

import numpy as np
from rich.console import Console

from bench.report.contest_tables import contest_tables
from bench.report.renderers import as_text
from bench.results.stats.compare import compare

ACCURACY = {"accuracy": {"version": "1", "parameters": {}}}
STABILITY = {"stability": {"version": "1", "parameters": {}}}
LESS = {"cancellation": {"version": "1", "parameters": {}, "unit": "", "higher_is_better": False}}


def accuracy(maker, method, hits, metrics=ACCURACY, index=None, **more):
    """A cell with an accuracy of these images."""
    hits = np.asarray(hits, dtype=int)
    index = range(len(hits)) if index is None else index
    items = {"accuracy.image": {"index": index, "correct": hits.tolist()}}
    return maker.cell(method, {"accuracy": 100 * float(hits.mean())}, metrics=metrics, items=items, **more)


def stability(maker, method, rates, **more):
    """A cell with stabilities of prototypes: ``rates[class]``, as many as the class has."""
    rows = [(place, label, rate) for label, own in enumerate(rates) for place, rate in enumerate(own)]
    table = dict(zip(("prototype", "class", "stable"), zip(*rows, strict=True), strict=True))
    value = 100 * float(np.mean([rate for _, _, rate in rows]))
    return maker.cell(method, {"stability": value}, metrics=STABILITY, items={"stability.prototype": table}, **more)


def drawn(share, seed, count=200):
    return np.random.default_rng(seed).random(count) < share


def only(maker, *methods, **more):
    (found,) = compare(maker.store, methods, **more).comparisons
    return found


def shown(found, width):
    stream = io.StringIO()
    as_text(contest_tables(found), Console(file=stream, width=width))
    return stream.getvalue()
