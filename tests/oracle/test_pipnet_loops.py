"""PIP-Net as loops over numbers, written from Nauta et al., CVPR 2023; only weights and features are the network's."""

import doctest
from math import exp, log, tanh

import pytest
import torch

import baselines.pipnet
from baselines.pipnet import PIPNet, PIPNetLearner, PIPNetModel
from bench.config.schedule import Phase, Schedule
from bench.contract import RequestError, Sizes
from bench.training.trainer import Trainer
from tests.support.samples import Dying, Killed, Silent, SmallNet, TensorSamples, stripes, task

CLASSES, COUNT, OWN = 3, 5, 2
LABELS = [2, 0, 1, 2]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = PIPNetModel(SmallNet(), CLASSES, COUNT, OWN).double().eval()
    with torch.no_grad():
        # Large enough that some prototypes are present and some are not, and a weight that has fallen to 0.
        model.to_shares[0].weight.mul_(6)
        model.to_shares[0].bias[2] -= 4
        model.last_layer.weight[1, 3] = 0
        model.assign()
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def config(**settings):
    phases = [
        Phase(name="pretrain", epochs=4, lr={"add_on": 0.01}),
        Phase(name="classes", epochs=2, lr={"last_layer": 0.01}),
        Phase(name="joint", epochs=3, lr={"backbone": 0.01, "add_on": 0.01, "last_layer": 0.01}, action="prune"),
    ]
    return PIPNet.Config(prototypes=COUNT, own=OWN, schedule=Schedule(batch_size=12, phases=phases), **settings)


def shares(model, images):
    """``[image][prototype][row][column]``."""
    layer, found = model.to_shares[0], []
    weight, bias = layer.weight[:, :, 0, 0].tolist(), layer.bias.tolist()
    with torch.no_grad():
        features = model.backbone(images).permute(0, 2, 3, 1).tolist()
    for image in features:
        maps = [[[0.0] * len(image[0]) for _ in image] for _ in weight]
        for y, row in enumerate(image):
            for x, cell in enumerate(row):
                values = [
                    exp(sum(a * b for a, b in zip(w, cell, strict=True)) + c) for w, c in zip(weight, bias, strict=True)
                ]
                for j, value in enumerate(values):
                    maps[j][y][x] = value / sum(values)
        found.append(maps)
    return found


def highest(grid):
    return max(value for row in grid for value in row)


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(baselines.pipnet) == (0, 1)


@torch.no_grad()
def test_maps_scores_logits_and_attributions(model, images):
    classes = torch.tensor(LABELS)
    features, found = model.backbone(images), model.explain(images)
    shown, exact, shapley = (get(features, classes) for get in (model.attribute, model.contributions, model.shapley))
    absent = 0
    for i, maps in enumerate(shares(model, images)):
        tops = [highest(grid) if highest(grid) >= 0.1 else 0.0 for grid in maps]
        absent += tops.count(0.0)
        weight = model.last_layer.weight.tolist()
        assert found.scores[i].tolist() == pytest.approx(tops)
        logits = [sum(w * top for w, top in zip(row, tops, strict=True)) for row in weight]
        assert found.logits[i].tolist() == pytest.approx(logits)
        own = weight[LABELS[i]]
        expected = torch.tensor(own).double()[:, None, None] * torch.tensor(maps).double()
        torch.testing.assert_close(shown[i], expected.sum(0))
        places = torch.zeros_like(shown[i])
        for w, grid, top in zip(own, maps, tops, strict=True):
            places += w * top * (torch.tensor(grid, dtype=torch.float64) == highest(grid)) * (top > 0)
        torch.testing.assert_close(exact[i], places)
        assert float(shapley[i].sum()) == pytest.approx(logits[LABELS[i]])
        for j, grid in enumerate(maps):
            assert found.maps[i, j].tolist() == [pytest.approx(row) for row in grid]
    assert 0 < absent < 4 * COUNT


def test_a_class_has_the_prototypes_of_its_largest_weights(model):
    with torch.no_grad():
        model.last_layer.weight.copy_(torch.tensor([[0, 3, 2, 1, 0], [0, 0, 0, 0, 0.5], [1, 1.5, 0, 0, 2]]))
    model.assign()
    owned = [model.prototypes.classes[:, c].nonzero().flatten().tolist() for c in range(CLASSES)]
    assert owned == [[1, 2], [4], [1, 4]]


@pytest.mark.parametrize("learns", [("add_on",), ("last_layer",), ("backbone", "add_on", "last_layer")])
def test_losses(learns, model, images):
    learner = PIPNetLearner(model, config(views="mirror"), Silent(), stripes())
    for name, parameters in learner.groups().items():
        for parameter in parameters:
            parameter.requires_grad_(name in learns)
    learner.before_epoch(1)
    found = {name: value.item() for name, value in learner(images, torch.tensor(LABELS), "").items()}
    first = shares(model, images)
    second = [[[row[::-1] for row in grid] for grid in maps] for maps in shares(model, images.flip(-1))]
    cells = []
    for a, b in zip(first, second, strict=True):
        for y in range(len(a[0])):
            for x in range(len(a[0][0])):
                cells.append(-log(sum(p[y][x] * q[y][x] for p, q in zip(a, b, strict=True)) + 1e-12))
    views = [[[highest(grid) for grid in maps] for maps in view] for view in (first, second)]
    absent = [-log(tanh(sum(row[j] for row in rows)) + 1e-8) for rows in views for j in range(COUNT)]
    entropy = right = 0.0
    for rows in views:
        for row, label in zip(rows, LABELS, strict=True):
            logits = [sum(w * s for w, s in zip(ws, row, strict=True)) for ws in model.last_layer.weight.tolist()]
            flat = [log(1 + value**2) for value in logits]
            entropy += (log(sum(map(exp, flat))) - flat[label]) / 8
            right += (logits.index(max(logits)) == label) / 8
    terms = {"alignment": sum(cells) / len(cells), "presence": sum(absent) / len(absent), "cross_entropy": entropy}
    if "last_layer" not in learns:
        # The second of four epochs.
        expected, left_out = 0.5 * terms["alignment"] + 5 * terms["presence"], {"cross_entropy"}
    elif learns == ("last_layer",):
        expected, left_out = 2 * entropy, {"alignment", "presence"}
    else:
        expected, left_out = 5 * terms["alignment"] + 2 * terms["presence"] + 2 * entropy, set()
    kept = {name: value for name, value in terms.items() if name not in left_out}
    assert found == pytest.approx({"loss": expected, "train_accuracy": right, **kept})


def test_each_view_teaches_towards_the_other_at_rest(model, images):
    """The derivative of the alignment is that of two terms in which one view is a constant each."""
    learner = PIPNetLearner(model, config(views="mirror"), Silent(), stripes())
    loss = learner(images, torch.tensor(LABELS), "")["alignment"]
    weight = model.to_shares[0].weight
    (found,) = torch.autograd.grad(loss, weight)
    first, second = learner.views(images)
    fixed = [view.detach() for view in (first, second)]
    half = [-((a * b).sum(1) + 1e-12).log().mean() / 2 for a, b in ((first, fixed[1]), (second, fixed[0]))]
    torch.testing.assert_close(found, torch.autograd.grad(half[0] + half[1], weight)[0])


def test_a_step_makes_weights_smaller_and_none_learns_at_zero(model, images):
    learner = PIPNetLearner(model, config(views="mirror", shrinkage=0.01), Silent(), stripes())
    before = model.last_layer.weight.tolist()
    learner.after_step()
    for row, old in zip(model.last_layer.weight.tolist(), before, strict=True):
        assert row == pytest.approx([max(value - 0.01, 0) for value in old])
    loss = learner(images, torch.tensor(LABELS), "")["loss"]
    (slope,) = torch.autograd.grad(loss, model.last_layer.weight)
    assert slope[1, 3] == 0
    assert slope[model.last_layer.weight > 0].all()
    model.last_layer.weight.requires_grad_(False)
    learner.after_step()
    assert model.last_layer.weight[0, 0].item() == pytest.approx(before[0][0] - 0.01)


def test_prototypes_that_no_image_shows_are_pruned(model, images):
    model.to_shares[0].bias.data[2] -= 20
    learner = PIPNetLearner(model, config(), Silent(), stripes())
    tops = [max(highest(maps[j]) for maps in shares(model, images)) for j in range(COUNT)]
    with torch.no_grad():
        model.last_layer.weight[0] = torch.tensor([0, 0, 1.5, 0, 0])
    before = model.last_layer.weight.tolist()
    learner.act("prune", TensorSamples(images, torch.tensor(LABELS), CLASSES))
    after = model.last_layer.weight.tolist()
    for row, old in zip(after[1:], before[1:], strict=True):
        assert row == [w if top > 0.1 else 0.0 for w, top in zip(old, tops, strict=True)]
    assert after[0] == before[0]  # it has no other
    assert tops[2] < 0.1
    assert learner.facts()["used"] == sum(top > 0.1 for top in tops) + 1
    with pytest.raises(TypeError, match="knows no action"):
        learner.act("project", stripes())


def test_views_in_other_colours_are_at_the_same_places(model, images):
    learner = PIPNetLearner(model, config(), Silent(), stripes()).double()
    torch.manual_seed(0)
    first, second = learner.views(images)
    assert not torch.allclose(first, second)
    grey = torch.full_like(images, 0.0) - learner.mean / learner.deviation  # black stays black in other colours
    for view in learner.views(grey):
        torch.testing.assert_close(view, model.maps(model.backbone(grey)))


def test_fit_learns_and_a_killed_one_ends_alike(tmp_path):
    settings = config(shrinkage=0.01, views="colours")
    phases = [phase.model_copy(update={"epochs": 10}) for phase in settings.schedule.phases]
    settings = settings.model_copy(update={"schedule": settings.schedule.model_copy(update={"phases": tuple(phases)})})
    samples, method = stripes(), PIPNet()
    work = task(tmp_path / "whole", samples, settings)
    whole = method.fit(work)
    with torch.no_grad():
        assert (whole(samples.images).argmax(1) == samples.labels).float().mean() > 0.6
    assert work.facts["projected"] == 0
    assert whole.prototypes.classes.any(0).all()
    again = task(tmp_path / "killed", samples, settings)
    again.trainer = Dying(tmp_path / "killed", again.device, "fp32", 0, Silent())
    again.trainer.lives = 14
    with pytest.raises(Killed):
        method.fit(again)
    torch.manual_seed(99)
    again.trainer = Trainer(tmp_path / "killed", again.device, "fp32", 0, Silent())
    resumed = method.fit(again).state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.state_dict().items())


def test_what_cannot_work_is_refused():
    with pytest.raises(RequestError, match="exceeds the 5 prototypes"):
        PIPNet.check(config().model_copy(update={"own": 6}), Sizes(3, 10, 8, 16))
    with pytest.raises(ValueError, match="no prototype vectors"):
        config(start={"prototypes": "kmeans"})
