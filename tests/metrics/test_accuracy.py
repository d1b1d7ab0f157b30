import pytest
import torch

from bench.contract import CellError
from metrics.accuracy import Accuracy
from tests.support.scripted_model import ScriptedModel, images, same, samples, score


def run(logits, labels, **more):
    count, classes = len(logits), len(logits[0])
    model = ScriptedModel(torch.eye(classes).bool(), torch.zeros(count, classes, 7, 7), logits=torch.tensor(logits))
    return score(Accuracy, model, images(count), labels, torch.zeros(count, 1, 2), [[True]] * count, **more)


def test_accuracy_by_hand():
    result = run([[2.0, 1.0, 0.0], [0.0, 3.0, -1.0], [0.0, 1.0, 5.0]], [0, 2, 2])
    assert result.value == pytest.approx(200 / 3, abs=1e-12)
    assert result.n == 3
    assert {name: column.tolist() for name, column in result.items["image"].items()} == {
        "index": [0, 1, 2], "label": [0, 2, 2], "prediction": [0, 1, 2], "correct": [1, 0, 1],
    }  # fmt: skip


def test_of_tied_classes_the_first_is_the_prediction():
    result = run([[0.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [2, 0])
    assert result.items["image"]["prediction"].tolist() == [1, 0]
    assert result.value == 50


def test_order_and_size_of_batches_do_not_matter():
    logits = torch.randn(11, 5, generator=torch.Generator().manual_seed(0)).tolist()
    labels = [i % 5 for i in range(11)]
    whole = run(logits, labels)
    assert same(whole, run(logits, labels, batches=[[10, 3, 4, 5], [9, 0], [1, 2, 6, 7, 8]]))
    assert whole.items["image"]["prediction"].tolist() == torch.tensor(logits).argmax(1).tolist()


def test_a_nan_logit_is_refused_by_image():
    with pytest.raises(CellError, match="2 images are NaN; the first is test image 1"):
        run([[0.0, 1.0], [float("nan"), 1.0], [0.0, float("nan")]], [0, 1, 0])


def test_an_empty_split_is_refused():
    with pytest.raises(CellError, match="empty"):
        Accuracy(Accuracy.Config(), samples(1, 2), None).compute()
