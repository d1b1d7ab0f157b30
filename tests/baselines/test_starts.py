"""Data-dependent starts of the networks: prototypes, add-on layers, presences, backbones."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from baselines import starts
from baselines.cosine_head import CosineHead
from baselines.deformable import DeformableProtoPNet
from baselines.protopnet import ProtoPNet
from baselines.protopool import ProtoPool
from baselines.tesnet import TesNet
from bench.config.schedule import Phase, Schedule
from tests.support.samples import Dying, Killed, Silent, SmallNet, stripes, task

PHASES = [
    Phase(name="warm", epochs=2, lr={"prototypes": 0.01}, freeze_norm=True, action="project"),
]
CLASS_SPECIFIC = {
    ProtoPNet: {"per_class": 2, "depth": 8},
    TesNet: {"per_class": 2, "depth": 8},
    DeformableProtoPNet: {"per_class": 2, "hidden": 4, "upsampling": 1},
    CosineHead: {"per_class": 2},
}
POOL = {"prototypes": 7, "slots": 2, "depth": 8}


def prepared(method, settings, folder, start, samples=None):
    """A network of this start, that has not been trained."""
    samples = samples or stripes()
    config = method.Config(schedule=Schedule(phases=PHASES), start=start, **settings)
    work = task(folder, samples, config)
    model = method().build(work)
    starts.prepare(model, config.start, samples, work.seed, Silent())
    return model


def all_patches(model, samples, label):
    """Every latent patch of a class, one a row."""
    latent = getattr(model, "patches", None) or model.add_on_layers
    with torch.no_grad():
        batch = next(samples.batches(len(samples)))
        z = latent(model.backbone(batch.images))[batch.labels == label]
    return z.flatten(2).transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("method", CLASS_SPECIFIC)
def test_patches_are_those_of_the_own_class(method, tmp_path):
    samples = stripes()
    model = prepared(method, CLASS_SPECIFIC[method], tmp_path, {"prototypes": "patches"}, samples)
    for label in range(samples.classes):
        own = model.prototype_vectors[model.prototypes.classes[:, label]].flatten(1)
        gaps = torch.cdist(own, all_patches(model, samples, label)).amin(1)
        assert gaps.max() < 1e-2 * own.norm(dim=1).max()


# Cells of Deformable ProtoPNet all have one length, and border patches are half empty: the means gain less there.
@pytest.mark.parametrize(
    ("method", "most"), [(ProtoPNet, 0.5), (TesNet, 0.5), (DeformableProtoPNet, 0.9), (CosineHead, 0.5)]
)
def test_kmeans_lies_nearer_to_its_class_than_uniform(method, most, tmp_path):
    samples = stripes()

    def spread(start):
        model = prepared(method, CLASS_SPECIFIC[method], tmp_path, start, samples)
        vectors = model.prototype_vectors.detach().flatten(1)
        gaps = [
            torch.cdist(all_patches(model, samples, label), vectors[rows]).amin(1).mean()
            for label, rows in enumerate(model.prototypes.classes.T)
        ]
        return float(torch.stack(gaps).mean())

    assert spread({"prototypes": "kmeans"}) < most * spread({})


def test_cluster_means_are_a_fixed_point_of_lloyds_rounds():
    points = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    means = starts.cluster(points, 4, 100, torch.Generator().manual_seed(1))
    nearest = torch.cdist(points, means).argmin(1)
    for number in range(4):
        torch.testing.assert_close(means[number], points[nearest == number].mean(0))


def test_cluster_of_few_points_repeats_them():
    points = torch.tensor([[1.0], [2.0]])
    means = starts.cluster(points, 5, 3, torch.Generator().manual_seed(0))
    assert sorted(means.flatten().tolist())[0] == 1.0
    assert means.shape == (5, 1)
    assert set(means.flatten().tolist()) == {1.0, 2.0}


def test_foreground_is_the_quarter_of_largest_sums():
    features = torch.zeros(1, 2, 4, 4)
    features[0, :, 1, 1:3] = 5.0
    features[0, 0, 2, 1:3] = 3.0
    patches = torch.arange(16.0).view(1, 1, 4, 4)
    assert sorted(starts.foreground(features, patches).flatten().tolist()) == [5.0, 6.0, 9.0, 10.0]


def test_rescaled_layers_have_mean_0_and_deviation_1(tmp_path):
    samples = stripes()
    model = prepared(ProtoPNet, CLASS_SPECIFIC[ProtoPNet], tmp_path, {"add_on": "rescaled"}, samples)
    with torch.no_grad():
        features = model.backbone(next(samples.batches(len(samples))).images)
        for depth, layer in enumerate(model.add_on_layers, 1):
            if isinstance(layer, nn.Conv2d):
                values = model.add_on_layers[:depth](features).movedim(1, 0).flatten(1)
                torch.testing.assert_close(values.mean(1), torch.zeros(8), atol=1e-4, rtol=0)
                torch.testing.assert_close(values.std(1), torch.ones(8), atol=2e-3, rtol=0)


def test_presence_from_data_favours_the_nearest_prototypes(tmp_path):
    samples = stripes()
    drawn = prepared(ProtoPool, POOL, tmp_path, {"prototypes": "kmeans"}, samples)
    favoured = prepared(ProtoPool, POOL, tmp_path, {"prototypes": "kmeans", "presence": "data"}, samples)
    assert torch.equal(drawn.prototype_vectors, favoured.prototype_vectors)
    raised = favoured.proto_presence - drawn.proto_presence
    torch.testing.assert_close(raised, 0.15 * (raised > 0.1), atol=1e-6, rtol=0)
    raised = raised > 0.1
    assert (raised.sum(1) == POOL["slots"]).all()
    for label in range(samples.classes):
        gaps = torch.cdist(all_patches(drawn, samples, label), drawn.prototype_vectors.flatten(1)).amin(0)
        chosen = raised[label, :, 0]
        assert gaps[chosen].mean() < gaps[~chosen].mean()
    slots = favoured.proto_presence.argmax(1)
    assert torch.equal(favoured.slots, slots)


def test_pool_of_fewer_prototypes_than_classes_is_clustered(tmp_path):
    model = prepared(ProtoPool, {**POOL, "prototypes": 4, "slots": 2}, tmp_path, {"prototypes": "kmeans"})
    assert model.prototype_vectors.shape[0] == 4
    assert model.prototype_vectors.flatten(1).unique(dim=0).shape[0] == 4


def test_start_follows_from_the_seed_alone(tmp_path):
    start = {"prototypes": "kmeans", "add_on": "rescaled"}
    one, other = (prepared(ProtoPNet, CLASS_SPECIFIC[ProtoPNet], tmp_path / name, start) for name in "ab")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize("lives", [1, 2, 3])
def test_killed_training_keeps_its_start(lives, tmp_path):
    config = ProtoPool.Config(
        schedule=Schedule(
            batch_size=16, augment="flip", phases=[*PHASES, Phase(name="last", epochs=1, lr={"last_layer": 0.01})]
        ),
        start={"prototypes": "kmeans", "add_on": "rescaled", "presence": "data"},
        gumbel_steps=4,
        **POOL,
    )
    whole = task(tmp_path / "whole", stripes(), config)
    undisturbed = ProtoPool().fit(whole)
    killed = task(tmp_path / "killed", stripes(), config)
    dying = Dying(tmp_path / "killed", torch.device("cpu"), "fp32", killed.trainer.seed, Silent())
    dying.lives, killed.trainer = lives, dying
    with pytest.raises(Killed):
        ProtoPool().fit(killed)
    again = task(tmp_path / "killed", stripes(), config)
    resumed = ProtoPool().fit(again)
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in undisturbed.state_dict().items())
    assert again.facts == whole.facts


def test_backbone_starts_from_the_black_box(tmp_path):
    class Box(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.backbone = SmallNet()

    config = ProtoPNet.Config(
        schedule=Schedule(phases=PHASES), start={"backbone": "blackbox"}, **CLASS_SPECIFIC[ProtoPNet]
    )
    assert ProtoPNet.starts_from_black_box(config)
    work = task(tmp_path, stripes(), config)
    work.black_box = Box()
    model = ProtoPNet().fit(work)
    for name, value in work.black_box.backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value), name


def test_published_start_is_no_part_of_the_settings():
    config = ProtoPNet.Config(schedule=Schedule(phases=PHASES))
    assert not {"start", "stage"} & set(config.model_dump(mode="json"))
    changed = ProtoPNet.Config(schedule=Schedule(phases=PHASES), start={"prototypes": "kmeans"}, stage="projected")
    assert {"start", "stage"} <= set(changed.model_dump(mode="json"))
    assert ProtoPNet.Config.model_validate(changed.model_dump(mode="json")) == changed


def test_unknown_part_of_a_start_is_refused():
    with pytest.raises(ValidationError, match="presence"):
        ProtoPNet.Config(schedule=Schedule(phases=PHASES), start={"presence": "data"})
