"""Deformable ProtoPNet: the convolution's properties, the parameters of each phase, and training from end to end."""

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from baselines.deformable import (
    DeformableProtoPNet,
    DeformableProtoPNetLearner,
    DeformableProtoPNetModel,
    unit_features,
    with_margin,
)
from baselines.deformable_conv import linear_patches, norm_preserving_conv
from bench.config.schedule import Phase, Schedule
from tests.support.networks import NETWORKS, changed_groups, reached_groups
from tests.support.samples import Silent, SmallNet, stripes, task


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def features(n=2, depth=5, height=4, width=6, dtype=torch.float32):
    """Like those of a ReLU: about half are zero."""
    return torch.randn(n, depth, height, width, generator=generator(), dtype=dtype).relu()


@pytest.mark.parametrize("offsets", [None, torch.zeros(2, 8, 4, 6)], ids=["without", "of zero"])
def test_without_movement_it_is_the_dilated_convolution(offsets):
    z, prototypes = features(), torch.randn(3, 5, 2, 2, generator=generator(1))
    expected = functional.conv2d(z, prototypes, padding=1, dilation=2)
    torch.testing.assert_close(norm_preserving_conv(z, prototypes, offsets), expected)


def test_negative_features_are_read_without_their_sign():
    z, prototypes = torch.randn(2, 5, 4, 6, generator=generator()), torch.randn(3, 5, 2, 2, generator=generator(1))
    moved = norm_preserving_conv(z, prototypes, torch.zeros(2, 8, 4, 6))
    torch.testing.assert_close(norm_preserving_conv(z, prototypes, None), moved)


def test_whole_offsets_look_at_other_cells():
    z, prototypes = features(), torch.randn(3, 5, 2, 2, generator=generator(1))
    offsets = torch.zeros(2, 8, 4, 6)
    offsets[:, 0::2], offsets[:, 1::2] = 1.0, -2.0
    away = functional.pad(z, (2, 0, 0, 1))[:, :, 1:, :6]
    expected = functional.conv2d(away, prototypes, padding=1, dilation=2)
    # Cells just outside may be read from farther in: compare cells without padding.
    found = norm_preserving_conv(z, prototypes, offsets)
    torch.testing.assert_close(found[:, :, 1:-2, 3:-1], expected[:, :, 1:-2, 3:-1])


def test_each_part_has_offsets_of_its_own():
    z = torch.zeros(1, 1, 5, 5)
    z[0, 0, 2, 3] = 1.0
    for part in range(4):
        prototypes = torch.zeros(1, 1, 2, 2)
        prototypes[0, 0, part // 2, part % 2] = 1.0
        offsets = torch.zeros(1, 8, 5, 5)
        # Moved so that from the middle cell (2, 2) this part looks at (2, 3).
        offsets[0, 2 * part, 2, 2] = 2 - (1 + 2 * (part // 2))
        offsets[0, 2 * part + 1, 2, 2] = 3 - (1 + 2 * (part % 2))
        assert norm_preserving_conv(z, prototypes, offsets)[0, 0, 2, 2] == 1


def test_between_cells_of_one_norm_the_norm_is_the_same():
    # One channel a cell: squares of the sample's channels add up to the mean of the cells' squares.
    z = torch.eye(20).view(1, 20, 4, 5)
    offsets = 0.99 * torch.rand(1, 8, 4, 5, generator=generator())
    squares = torch.zeros(1, 1, 4, 5)
    for channel in range(20):
        prototypes = torch.zeros(1, 20, 2, 2)
        prototypes[0, channel, 0, 0] = 1.0
        squares += norm_preserving_conv(z, prototypes, offsets).square()
    torch.testing.assert_close(squares[0, 0, 1:, 1:], torch.ones(3, 4))


def test_outside_is_zero():
    z, prototypes = features(), torch.ones(1, 5, 2, 2)
    far = torch.full((2, 8, 4, 6), 100.0)
    for offsets in (far, -far):
        assert norm_preserving_conv(z, prototypes, offsets).abs().max() < 1e-12
        patches = linear_patches(z, offsets, torch.tensor([0, 1]), torch.tensor([0, 3]), torch.tensor([5, 2]))
        assert not patches.any()


def test_gradients_are_those_of_the_formula():
    z = (features(n=1, depth=3, height=3, width=3, dtype=torch.float64) + 0.1).requires_grad_()
    prototypes = torch.randn(2, 3, 2, 2, generator=generator(1), dtype=torch.float64, requires_grad=True)
    offsets = (1.5 * torch.rand(1, 8, 3, 3, generator=generator(2), dtype=torch.float64) - 0.7).requires_grad_()
    assert torch.autograd.gradcheck(norm_preserving_conv, (z, prototypes, offsets))


def test_gradients_stay_finite_for_zero_features():
    z = features().requires_grad_()
    offsets = torch.zeros(2, 8, 4, 6, requires_grad=True)
    norm_preserving_conv(z, torch.rand(3, 5, 2, 2, generator=generator(1)), offsets).sum().backward()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(offsets.grad).all()
    assert not z.grad[z == 0].any()


def test_every_cell_has_the_same_length():
    lengths = unit_features(100 * features() + 1).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((2, 4, 6), 32.0), rtol=1e-4, atol=0)


def test_the_margin_keeps_the_order():
    cosines = torch.linspace(-1, 1, 101) / 1.01
    nearer = with_margin(cosines, torch.tensor(0.1))
    assert (nearer.diff() > 0).all()
    assert (nearer > cosines).all()
    torch.testing.assert_close(with_margin(cosines, torch.tensor(0.0)), cosines)


def learner(**settings):
    torch.manual_seed(0)
    model = DeformableProtoPNetModel(SmallNet(), 3, 2, hidden=4, upsampling=2)
    config = DeformableProtoPNet.Config(schedule=Schedule(phases=[]), **settings)
    return DeformableProtoPNetLearner(model, config, 0, Silent())


def test_offsets_learn_only_once_they_are_open():
    module, samples = learner(), stripes()
    images, labels = samples.images[::3], samples.labels[::3]
    rigid = module(images, labels, "backbone")
    assert reached_groups(module, rigid["cross_entropy"]) == {"backbone", "prototypes", "last_layer"}
    assert "offset_penalty" not in rigid
    module.act("open_offsets", samples)
    joint = module(images, labels, "joint")
    everything = {"backbone", "prototypes", "offsets", "last_layer"}
    assert reached_groups(module, joint["cross_entropy"]) == everything
    assert reached_groups(module, joint["loss"]) == everything


def test_the_offset_penalty_trains_the_offset_network():
    module, samples = learner(official_bugs=False), stripes()
    module.act("open_offsets", samples)
    losses = module(samples.images, samples.labels, "joint")
    assert reached_groups(module, losses["offset_penalty"]) == {"backbone", "offsets"}
    assert reached_groups(module, losses["orthogonality"]) == {"prototypes"}


def test_as_released_the_offset_penalty_trains_nothing():
    module, samples = learner(), stripes()
    module.act("open_offsets", samples)
    penalty = module(samples.images, samples.labels, "joint")["offset_penalty"]
    assert penalty > 0
    assert not penalty.requires_grad


def test_orthogonality_is_zero_for_orthogonal_parts_of_a_class():
    model = DeformableProtoPNetModel(SmallNet(), 3, 2, hidden=4, upsampling=2)
    with torch.no_grad():
        # 2 prototypes of 4 parts: 8 of the 16 axes, the same for all classes.
        parts = 100 * torch.eye(16)[:8].view(2, 2, 2, 16).permute(0, 3, 1, 2)
        model.prototype_vectors.copy_(parts.repeat(3, 1, 1, 1))
        assert model.orthogonality(groups=3) < 1e-4
        # As released, a group has 3 prototypes here, so some part is met twice.
        assert model.orthogonality(groups=2) > 1


def test_opening_draws_from_the_seed():
    one, same, other = (learner().model for _ in range(3))
    one.open_offsets(1)
    same.open_offsets(1)
    other.open_offsets(2)
    first = one.conv_offset[0].weight
    assert torch.equal(first, same.conv_offset[0].weight)
    assert not torch.equal(first, other.conv_offset[0].weight)
    assert first.std().item() == pytest.approx(2e-5, rel=0.1)
    assert not one.conv_offset[0].bias.any()


def test_a_saved_model_knows_whether_its_parts_move():
    model, images = learner().model.eval(), stripes().images[:4]
    model.open_offsets(0)
    with torch.no_grad():
        for parameter in model.conv_offset.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator()))
    other = learner().model.eval()
    with torch.no_grad():
        assert not torch.equal(other(images), model(images))
        other.load_state_dict(model.state_dict())
        assert torch.equal(other(images), model(images))


def test_bfloat16_changes_cosines_little():
    model, images = learner().model.eval(), stripes().images[:4]
    model.open_offsets(0)
    with torch.no_grad():
        exact = model.explain(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model.explain(images)
    assert rough.maps.dtype == torch.float32
    torch.testing.assert_close(rough.maps, exact.maps, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([Phase(name="joint", lr={"offsets": 0.1})], "'offsets', which are not in use yet.*action: open_offsets"),
        ([Phase(name="x", lr={"add_on": 0.1})], "'add_on'; groups: backbone, prototypes, offsets, last_layer"),
        ([Phase(name="x", action="push")], "no action 'push'; actions: open_offsets, project"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(phases, message):
    with pytest.raises(ValidationError, match=message):
        DeformableProtoPNet.Config(schedule=Schedule(phases=phases))


def test_opening_draws_offsets_and_keeps_last_layer(tmp_path):
    network = NETWORKS["deformable"]
    work = task(tmp_path, stripes(), network.config())
    before, after = network.method().build(work), network.method().fit(work)
    assert after.deformed
    # The last layer is not in the phase; offsets are drawn, not learnt.
    assert changed_groups(network, before, after) == {"prototypes", "backbone", "offsets"}
    assert after.last_layer.weight.unique().tolist() == [-0.5, 1.0]
