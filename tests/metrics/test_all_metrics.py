"""Properties that metrics on prototypes have in common, on drawn models with ragged classes."""

import numpy as np
import pytest
import torch

from bench.contract import CellError, NotApplicable
from metrics.agreement import PartAgreement
from metrics.calibration import Calibration
from metrics.cancellation import Cancellation
from metrics.compactness import Compactness
from metrics.comprehensiveness import Comprehensiveness
from metrics.contrastivity import Contrastivity
from metrics.coverage import Coverage
from metrics.deletion import Deletion
from metrics.distinctiveness import Distinctiveness
from metrics.duplication import Duplication
from metrics.localisation import PointingBox
from metrics.mask_scores import MaskEnergy, MaskIou, MaskOirr
from metrics.purity import Purity
from tests.support.ragged_model import CLASSES, COUNT, SumOfMaps, case, measure

ALL = (
    Calibration, Cancellation, Compactness, Comprehensiveness, Contrastivity, Coverage, Distinctiveness, Duplication,
    MaskEnergy, MaskIou, MaskOirr, PartAgreement, PointingBox, Purity,
)  # fmt: skip
OF_CLASSES = (Calibration, MaskEnergy, MaskIou, MaskOirr, PointingBox)  # that need no prototype


@pytest.mark.parametrize("kind", ALL)
def test_order_and_size_of_batches_do_not_matter(kind):
    whole = measure(kind)
    for batches in ([[i] for i in range(COUNT)], [[3, 9, 1], [0], list(range(17, 9, -1)), [2, 4, 5, 6, 7, 8]]):
        other = measure(kind, batches=batches)
        assert (other.value, other.also) == (pytest.approx(whole.value), pytest.approx(whole.also))
        for name, table in whole.items.items():
            for column, values in table.items():
                np.testing.assert_allclose(other.items[name][column], values, atol=1e-9)


@pytest.mark.parametrize("kind", [*ALL, Deletion])
def test_broken_maps_are_refused(kind):
    model, split, _ = case()
    broken = SumOfMaps(model.prototypes.classes, torch.full_like(model.clean, float("nan")), logits=model.answers)
    if kind is Calibration:
        broken.answers = broken.answers * float("nan")
    try:
        value = measure(kind, broken, split).value
    except CellError:
        return
    assert value != value  # the cell refuses a score that is no number


@pytest.mark.parametrize("kind", [Contrastivity, Distinctiveness, Duplication, PartAgreement])
def test_one_prototype_per_class_has_nothing_to_differ_from(kind):
    model = SumOfMaps(torch.eye(CLASSES).bool(), torch.rand(COUNT, CLASSES, 7, 7))
    with pytest.raises(NotApplicable, match="two prototypes"):
        measure(kind, model)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind not in OF_CLASSES])
def test_no_prototypes(kind):
    with pytest.raises(NotApplicable):
        measure(kind, SumOfMaps(torch.zeros(0, CLASSES).bool(), torch.zeros(COUNT, 0, 7, 7)))


@pytest.mark.parametrize("kind", [*ALL, Deletion])
def test_no_test_images(kind):
    with pytest.raises(NotApplicable):
        measure(kind, batches=[[]])
