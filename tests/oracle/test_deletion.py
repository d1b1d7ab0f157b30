"""Deletion and insertion against plain loops over cells."""

import pytest
import torch
from torch import nn

from metrics.deletion import Deletion, curve
from tests.support.ragged_model import measure
from tests.support.samples import TensorSamples
from tests.support.scripted_model import ScriptedModel


class Mean(nn.Module):
    """Reads the mean colour of an image as the logit of class 0."""

    def forward(self, pictures):
        level = pictures.mean((1, 2, 3))
        return torch.stack((10 * level, -10 * level), 1)


def test_curves_take_away_in_order():
    ranks = torch.tensor([[2, 0], [3, 1]])
    picture = torch.arange(1.0, 17).view(1, 4, 4).expand(3, 4, 4)
    away, back = (curve(ranks, picture, 2, insert) for insert in (False, True))
    assert torch.equal(away[0], picture)
    assert (away[0] + back[0] == picture).all()
    assert away[1, 0].tolist() == [[1, 2, 0, 0], [5, 6, 0, 0], [9, 10, 0, 0], [13, 14, 0, 0]]
    assert (away[2] == 0).all()
    assert torch.equal(back[2], picture)
    assert [int((curve(ranks, picture, 3, False)[s, 0] == 0).sum() / 4) for s in range(4)] == [0, 2, 3, 4]


class Painted(ScriptedModel):
    """Its logit is the mean colour; its map is the colour of each cell, or its opposite."""

    def __init__(self, sign):
        super().__init__(torch.ones(1, 2).bool(), torch.zeros(1, 1, 4, 4))
        self.sign, self.answer = sign, Mean()

    def head(self, features, classes=None):
        shown = super().head(torch.zeros_like(features[:, :1]), classes)
        maps = self.sign * nn.functional.adaptive_avg_pool2d(features.mean(1, keepdim=True), 4)
        return type(shown)(self.answer(features), maps.expand_as(shown.maps), shown.scores, shown.indices)


@pytest.mark.parametrize("mode", ["delete", "insert"])
def test_deletion_by_plain_loops(mode):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(3, 3, 8, 8, generator=generator)
    split = TensorSamples(pictures, torch.zeros(3).long(), 2)
    found = measure(Deletion, Painted(1), split, mode=mode, steps=4, images=2)
    assert found.items["image"]["index"].tolist() == [0, 1]
    for i in range(2):
        cells = nn.functional.adaptive_avg_pool2d(pictures[i].mean(0)[None], 4)[0].flatten().tolist()
        order = sorted(range(16), key=lambda k: -cells[k])
        values = []
        for s in range(5):
            changed = pictures[i].clone() if mode == "delete" else torch.zeros(3, 8, 8)
            for cell in order[: 4 * s]:
                y, x = 2 * (cell // 4), 2 * (cell % 4)
                block = 0 if mode == "delete" else pictures[i][:, y : y + 2, x : x + 2]
                changed[:, y : y + 2, x : x + 2] = block
            values.append(float(Mean()(changed[None]).double().softmax(1)[0, 0]))
        area = 100 * sum((values[s] + values[s + 1]) / 2 for s in range(4)) / 4
        assert found.items["image"]["area"][i] == pytest.approx(area, rel=1e-5)
    assert found.value > 0  # the map's order is better than chance
    assert measure(Deletion, Painted(-1), split, mode=mode, steps=4).value < 0  # and the opposite map worse
