"""Projection onto training patches, by hand."""

import pytest
import torch

from baselines import layers, projection
from bench.contract import PrototypeTable
from tests.support.samples import Silent, TensorSamples


@pytest.fixture
def rows_of_cells():
    """Latent patches are the pixels themselves: 1 x 4 images whose cells are easy to tell apart."""
    images = torch.zeros(5, 3, 1, 4)
    images[0, 0] = torch.tensor([[0.0, 1.0, 5.0, 9.0]])
    images[1, 0] = torch.tensor([[2.0, 2.0, 2.0, 2.0]])
    images[2, 0] = torch.tensor([[4.0, 7.0, 7.0, 8.0]])
    images[3, 0] = torch.tensor([[5.0, 2.0, 1.0, 1.0]])
    images[4, 0] = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    return TensorSamples(images, torch.tensor([0, 0, 1, 0, 1]), 2)


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_projection_by_hand(rows_of_cells, monkeypatch, batch):
    monkeypatch.setattr(projection, "_PUSH_BATCH", batch)
    prototypes = torch.nn.Parameter(torch.zeros(4, 3, 1, 1))
    prototypes.data[:, 0, 0, 0] = torch.tensor([4.9, 1.2, 6.8, 1.1])
    table = PrototypeTable(layers.class_identity(2, 2))
    projection.project(prototypes, table, lambda x: x, layers.squared_distances, rows_of_cells, Silent())
    # Class 0: 4.9 -> the 5 of image 0 (image 3 has a 5 too, later); 1.2 -> the 1 of image 0 (before that of image 3).
    # Class 1: 6.8 -> the first 7 of image 2; 1.1 -> image 4's first cell, although class 0 has a 1 earlier.
    assert prototypes[:, 0, 0, 0].tolist() == [5, 1, 7, 1]
    assert table.source_image.tolist() == [0, 0, 2, 4]
    assert table.source_patch.tolist() == [[0, 2], [0, 1], [0, 1], [0, 0]]
