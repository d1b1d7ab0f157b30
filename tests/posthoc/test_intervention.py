"""Interventions against the model itself with one prototype left out."""

import torch

from bench.models.classifier import Classifier
from bench.posthoc.intervention import effects
from bench.posthoc.method import PostHocPPN
from tests.support.samples import SmallNet, stripes, task


def fitted(tmp_path, k=2):
    samples = stripes(per_class=20, seed=3)
    torch.manual_seed(1)
    box = Classifier(SmallNet(), 3).eval()
    return PostHocPPN().fit(task(tmp_path, samples, PostHocPPN.Config(k=k), black_box=box)), samples


def test_effects_are_those_of_the_model_without_the_prototype(tmp_path):
    model, samples = fitted(tmp_path)
    with torch.no_grad():
        explanation = model.explain(samples.images)
        result = effects(explanation.logits, explanation.scores, samples.labels, 2)
        right = explanation.logits.argmax(1) == samples.labels
        cases = set()
        for j in range(6):
            now = model.without([j])(samples.images).argmax(1) == samples.labels
            assert result.corrected[j] == (now & ~right).sum()
            assert result.broken[j] == (right & ~now).sum()
            cases |= {(j, int(n)) for n in (now & ~right).nonzero().flatten()}
    assert {tuple(case) for case in result.cases.tolist()} == cases
    assert result.corrected.sum() + result.broken.sum() > 0


def test_ranking_by_hand():
    # Two classes, one prototype each. Without prototype 0 every image goes to class 1 and the reverse.
    logits = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0], [1.0, 2.0]])
    labels = torch.tensor([1, 1, 0, 1])
    result = effects(logits, torch.full((4, 2), 5.0), labels, 1)
    assert result.corrected.tolist() == [2, 0]
    assert result.broken.tolist() == [1, 1]
    assert result.net.tolist() == [1, -1]
    assert result.ranking.tolist() == [0]
    assert result.cases.tolist() == [[0, 0], [0, 1]]


def test_leaving_out_changes_one_logit_by_one_score(tmp_path):
    model, samples = fitted(tmp_path, k=3)
    with torch.no_grad():
        before = model.explain(samples.images)
        after = model.without([4]).explain(samples.images)
    torch.testing.assert_close(after.logits[:, 1], before.logits[:, 1] - before.scores[:, 4], rtol=1e-4, atol=1e-4)
    assert torch.equal(after.logits[:, [0, 2]], before.logits[:, [0, 2]])
    assert not after.maps[:, 4].any()


def test_weights_scale_contributions_and_ones_change_nothing(tmp_path):
    model, samples = fitted(tmp_path)
    with torch.no_grad():
        assert torch.equal(model.reweighted(torch.ones(6))(samples.images), model(samples.images))
        doubled = model.reweighted(torch.tensor([1.0, 2.0, 1, 1, 1, 1])).explain(samples.images)
        torch.testing.assert_close(doubled.scores[:, 1], 2 * model.explain(samples.images).scores[:, 1])
