"""A classifier that came with its weights, beside the data set's labels: said and kept, and warned about."""

import re

import pytest
import torch
from torch import nn

from bench.training.black_box import agreement
from tests.support.samples import Silent, TensorSamples


class Knows(nn.Module):
    """Gives each image's number, which is its one brightness, as a class."""

    def __init__(self, classes, rows=None):
        super().__init__()
        self.classes, self.rows = classes, torch.arange(classes) if rows is None else torch.tensor(rows)

    def forward(self, images):
        return nn.functional.one_hot(self.rows[images[:, 0, 0, 0].long()], self.classes).float()


def split(classes=6, each=20):
    labels = torch.arange(classes).repeat_interleave(each)
    return TensorSamples(labels[:, None, None, None].float().expand(-1, 3, 4, 4), labels, classes)


@pytest.mark.parametrize(
    ("model", "accuracy", "warning"),
    [
        (Knows(6), 100.0, None),
        (Knows(6, [3, 5, 4, 0, 2, 1]), 0.0, r"but of 100.0 % with its classes in another order"),
        (Knows(6, [2] * 6), 100 / 6, r"which is near chance \(16.7 %\)"),
    ],
)
def test_answers_and_labels_of_a_split(model, accuracy, warning):
    progress = Silent()
    found = agreement(model, split(), torch.device("cpu"), progress)
    assert found == {"label_accuracy": pytest.approx(accuracy), "label_images": 120}
    assert len(progress.notes) == (warning is not None)
    if warning:
        assert re.search(warning, progress.notes[0])


def test_some_images_of_all_of_a_large_split_are_enough():
    found = agreement(Knows(40), split(40, 50), torch.device("cpu"), Silent())
    assert found == {"label_accuracy": 100.0, "label_images": 500}
