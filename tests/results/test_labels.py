"""Labels of cells, whole and short."""

import doctest

import pytest

from bench.results import labels


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(labels).failed == 0


@pytest.mark.parametrize(
    ("label", "short"),
    [
        ("ours", "ours"),
        ("ours (k=5)", "ours (k=5)"),
        ("a (x=[1, 2], y=3)", "a (x=[1, 2], y=3)"),
        ("a (x=[1, 2], y=3, z.0.w={'b': 1})", "a (3 settings)"),
        ("a (x=1, y=2, z=3) #1f2e3d", "a (3 settings) #1f2e3d"),
        ("constant (control)", "constant (control)"),
    ],
)
def test_settings_are_counted_from_three_on(label, short):
    assert labels.short_label(label) == short
