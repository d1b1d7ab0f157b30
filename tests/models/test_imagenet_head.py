"""Rows of a head of 1,000 classes for a data set with some of them."""

import pytest
import torch

from bench.config.black_box import BlackBoxConfig
from bench.contract import RequestError
from bench.core.imagenet_classes import rows_of, wnids
from bench.models.imagenet_head import head_for, head_names
from bench.posthoc.model import DecomposedClassifier

SOME = ["n01440764", "n01484850", "n15075141"]  # rows 0, 2 and 999: the second class is left out


def heads(*sizes):
    """A reader of heads whose weight holds the number of each row."""

    def read(count):
        if count not in sizes:
            raise RequestError(f"no linear head of {count} classes")
        return torch.arange(float(count))[:, None].expand(count, 4), torch.arange(float(count)) / 10

    return read


def test_the_list_is_alphabetical_and_whole():
    assert len(set(wnids())) == 1000
    assert list(wnids()) == sorted(wnids())


def test_rows_are_found_by_wnid_in_any_order_and_with_gaps():
    assert rows_of(SOME) == [0, 2, 999]
    assert rows_of(SOME[::-1]) == [999, 2, 0]
    assert rows_of([*SOME, "n00000000"]) is None


def test_present_classes_take_their_own_rows():
    weight, bias = head_for(SOME[::-1], "present", heads(1000))
    assert weight[:, 0].tolist() == [999, 2, 0]
    torch.testing.assert_close(bias, torch.tensor([99.9, 0.2, 0.0]))


def test_absent_classes_come_after_the_present_ones():
    weight, _ = head_for(SOME, "all", heads(1000))
    assert weight[:5, 0].tolist() == [0, 2, 999, 1, 3]
    assert sorted(weight[:, 0].tolist()) == list(range(1000))
    names = head_names(SOME, "all")
    assert names[:3] == SOME
    assert rows_of(names) == weight[:, 0].long().tolist()
    assert head_names(SOME, "present") == SOME


def test_a_head_of_the_data_sets_own_classes_is_taken_as_it_is():
    for names in (SOME, ["wren", "gull", "tern"]):
        assert head_for(names, "present", heads(3))[0][:, 0].tolist() == [0, 1, 2]
    assert head_for(wnids(), "all", heads(1000))[0][:, 0].tolist() == list(range(1000))


def test_heads_that_do_not_exist_are_refused():
    with pytest.raises(RequestError, match="no linear head of 1000 classes"):
        head_for(SOME, "all", heads(3))
    with pytest.raises(RequestError, match="no linear head of 3 classes"):
        head_for(SOME, "present", heads(5))
    with pytest.raises(RequestError, match=r"not named by WordNet ids .*rename the class folders"):
        head_for(["wren", "gull", "tern"], "all", heads(1000))


def test_head_classes_enter_the_id_when_they_are_not_the_default():
    assert BlackBoxConfig(head="pretrained").model_dump() == {"head": "pretrained"}
    everything = {"head": "pretrained", "head_classes": "all"}
    assert BlackBoxConfig(**everything).model_dump() == everything
    with pytest.raises(ValueError, match="set head=pretrained"):
        BlackBoxConfig(schedule={"batch_size": 1, "phases": []}, head_classes="all")


def test_logits_of_absent_classes_are_those_of_their_rows():
    torch.manual_seed(0)
    weight, bias = torch.randn(5, 4), torch.randn(5)
    vectors = torch.randn(2, 3, 4).double()
    vectors[:, 2] = weight[:2].double() - vectors[:, :2].sum(1)
    model = DecomposedClassifier(torch.nn.Identity(), vectors, bias, weight[2:]).eval()
    features = torch.rand(6, 4, 3, 3)
    expected = features.mean((2, 3)) @ weight.T + bias
    torch.testing.assert_close(model(features), expected)
    assert tuple(model.prototypes.classes.shape) == (6, 5)
    for classes in (torch.tensor([0, 1, 2, 3, 4, 4]), torch.eye(6, 5)):
        chosen = expected.gather(1, classes[:, None])[:, 0] if classes.ndim == 1 else (expected * classes).sum(1)
        offset = model.offset(classes) if classes.ndim == 1 else (classes * bias).sum(1)
        torch.testing.assert_close(model.attribute(features, classes).sum((1, 2)) + offset, chosen)
    other = DecomposedClassifier(torch.nn.Identity(), torch.zeros(2, 3, 4), torch.zeros(5), torch.zeros(3, 4))
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other(features), expected)
    torch.testing.assert_close(model.without([0])(features)[:, 1:], expected[:, 1:])


def test_models_without_absent_classes_keep_their_tensors():
    model = DecomposedClassifier(torch.nn.Identity(), torch.zeros(2, 3, 4), torch.zeros(2), torch.zeros(0, 4))
    assert "absent" not in model.state_dict()
