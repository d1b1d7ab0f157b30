"""What ProtoConcepts' training, mask and recipes must do; the formulas themselves are in tests/oracle."""

import math

import pytest
import torch

from baselines import official_checkpoints
from baselines.protoconcepts import ProtoConcepts
from bench.config.schedule import Phase, Schedule
from bench.config.schema import from_recipe
from bench.contract import RequestError, Sizes
from bench.core.paths import config_file
from bench.training.trainer import Trainer
from tests.support import official_checkouts as stand_ins
from tests.support.classifiers import data_parallel
from tests.support.samples import Dying, Killed, Silent, stripes, task

BASES = ("protopnet", "tesnet", "protopool")
SIZES = {"per_class": 2, "prototypes": 12, "depth": 8, "mixup": 0, "gumbel_epochs": 2}
CAPS = {"protopnet": 6.0, "tesnet": 7.4, "protopool": 6.0}
"""Caps that cut some of the similarities that the networks reach on the stripes."""
LAST = Phase(name="last", epochs=2, lr={"last_layer": 0.01}, freeze_norm=True)


def config_of(base, epochs=3, cap=None):
    groups = ["backbone", "add_on", "prototypes", "caps", *(["presence"] if base == "protopool" else [])]
    joint = Phase(name="joint", epochs=epochs, lr=dict.fromkeys(groups, 0.01), action="mask")
    schedule = Schedule(batch_size=12, phases=[joint, LAST])
    changed = {"base": base, "cap": CAPS[base] if cap is None else cap, "cluster": 0.1, "separation": 0.01}
    return ProtoConcepts.Config(**SIZES | changed, schedule=schedule)


@pytest.mark.parametrize("base", BASES)
def test_fit_learns_masks_and_loads_back(base, tmp_path):
    samples = stripes()
    work = task(tmp_path, samples, config_of(base, epochs=25))
    model = ProtoConcepts().fit(work)
    with torch.no_grad():
        logits = model(samples.images)
        limit, maps = model.limit[0].clamp(min=0), model.explain(samples.images).maps
    assert (logits.argmax(1) == samples.labels).float().mean() > 0.9
    # Whatever is shown has a patch of a training image of one of its classes inside; nothing else belongs to a class.
    own = model.prototypes.classes.T[samples.labels]
    seen = (maps.amax((2, 3)) > limit) & own
    assert torch.equal(seen.any(0), model.prototypes.classes.any(1))
    assert work.facts["masked"] == float((model.non_vis_mask == 0).sum())
    assert work.facts["projected"] == 0
    other = ProtoConcepts().build(work)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(samples.images), logits)


@pytest.mark.parametrize("base", BASES)
def test_every_parameter_is_in_one_group(base, tmp_path):
    work = task(tmp_path, stripes(), config_of(base))
    learner = ProtoConcepts().learner(ProtoConcepts().build(work), work)
    grouped = [parameter for parameters in learner.groups().values() for parameter in parameters]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in learner.parameters()}
    assert len(grouped) == len(list(learner.parameters()))


@pytest.mark.parametrize("death", [2, 4, 5])
@pytest.mark.parametrize("base", ["tesnet", "protopool"])
def test_killed_training_ends_like_whole(base, death, tmp_path):
    whole = ProtoConcepts().fit(task(tmp_path / "whole", stripes(), config_of(base))).state_dict()
    work = task(tmp_path / "killed", stripes(), config_of(base))
    work.trainer = Dying(tmp_path / "killed", work.device, "fp32", 0, Silent())
    work.trainer.lives = death
    with pytest.raises(Killed):
        ProtoConcepts().fit(work)
    work.trainer = Trainer(tmp_path / "killed", work.device, "fp32", 0, Silent())
    resumed = ProtoConcepts().fit(work).state_dict()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_balls_that_contain_nothing_leave_all_logits_zero(tmp_path):
    work = task(tmp_path, stripes(), config_of("protopnet", epochs=1, cap=-9.0))
    model = ProtoConcepts().fit(work)
    assert work.facts["masked"] == len(model.prototypes)
    with torch.no_grad():
        assert not model(stripes().images).any()
    assert not model.prototypes.classes.any()


@pytest.mark.parametrize("recipe", ["published", "small", "demo"])
@pytest.mark.parametrize("base", BASES)
def test_recipes_of_each_base(base, recipe):
    file = config_file("methods", "protoconcepts")
    config = from_recipe(file, ProtoConcepts.Config, recipe, {"protoconcepts.base": base}, "protoconcepts")
    ProtoConcepts.check(config, Sizes(200, 30, 512, 49, "resnet34"))
    assert config.base == base
    assert [phase.action for phase in config.schedule.phases] == (
        [None, "mask", None] if recipe == "published" else ["mask", None]
    )
    published = {"protopnet": (128, 6.0, 0.01, 10), "tesnet": (64, 8.05, 3e-5, 3), "protopool": (256, 4.5, 3e-3, 10)}
    if recipe == "published":
        assert (config.depth, config.cap, config.caps, config.nearest) == published[base]
    changed = {"protoconcepts.base": base, "protoconcepts.cap": 5.0}
    assert from_recipe(file, ProtoConcepts.Config, recipe, changed, "protoconcepts").cap == 5.0


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"base": "tesnet", "start": {"presence": "data"}}, "base=tesnet has no presence"),
        ({"base": "protopool", "prototypes": 10}, "prototypes must exceed"),
        ({"base": "tesnet", "depth": 4}, "no orthonormal basis is so large"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed, expected):
    config = ProtoConcepts.Config(**changed, schedule=Schedule(phases=[]))
    with pytest.raises(RequestError, match=expected):
        ProtoConcepts.check(config, Sizes(200, 30, 512, 49, "resnet34"))


BASES_OF_FILES = [
    ("protopnet", "module"), ("tesnet", "module"), ("tesnet", "parallel"), ("protopool", "state"),
    ("protopool", "prefixed"), ("protopnet", "state"),
]  # fmt: skip


@pytest.mark.parametrize(("base", "form"), BASES_OF_FILES)
def test_official_files(base, form, tmp_path):
    """Files of the network that is extended, with the caps and the mask that ProtoConcepts adds to it."""
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with stand_ins.imported(stand_ins.checkout(base, tmp_path / "checkout")) as module:
        network = stand_ins.build(base, module)
        count = 7 if base == "protopool" else 6
        mask = (torch.arange(count) != 1).float()
        caps = torch.linspace(7.5, 9.0, count)[None]
        network.cap_width_l2 = torch.nn.Parameter(caps)
        whole = mask[None, :, None].expand(3, -1, 2).clone() if base == "protopool" else mask
        network.non_vis_mask = torch.nn.Parameter(whole, requires_grad=False)
        with torch.no_grad():
            _, maps = stand_ins.answers(base, network, images)
            scores = torch.minimum(maps.amax((2, 3)), math.log(1e4) - torch.log1p(caps.exp()))
            if base == "protopool":
                mean = network.prototype_distances(images).mean((2, 3))
                scores = (scores - torch.log((mean + 1) / (mean + 1e-4))) * mask
                scores = scores[:, network.proto_presence.argmax(1).flatten()]
            else:
                scores = scores * mask
            logits = scores @ network.last_layer.weight.T
        content = {"module": network, "parallel": data_parallel(network), "state": network.state_dict()}
        content["prefixed"] = {f"module.{name}": tensor for name, tensor in content["state"].items()}
        torch.save(content[form], tmp_path / "official.pth")
    facts = official_checkpoints.convert("protoconcepts", tmp_path / "official.pth", tmp_path / "out")
    assert (facts["base"], facts["activation"], facts["epsilon"]) == (base, "log", 1e-4)
    assert ("doubt" in facts) == (base == "protopnet" and form == "state")
    other = "tesnet" if base != "tesnet" else "protopnet"
    file = str(tmp_path / "out.safetensors")
    sizes = Sizes(3, 12, 16, 16, "resnet18")
    wrong = ProtoConcepts.Config(base=other, checkpoint=file, schedule=Schedule(phases=[]))
    with pytest.raises(RequestError, match=rf"extends {base}: --set protoconcepts\.base={base}"):
        official_checkpoints.check("protoconcepts", wrong, sizes)
    config = ProtoConcepts.Config(base=base, checkpoint=file, schedule=Schedule(phases=[]))
    model = official_checkpoints.build(ProtoConcepts(), task(tmp_path, stripes(), config, backbone_name="resnet18"))
    with torch.no_grad():
        found = model.explain(images)
    torch.testing.assert_close(found.logits, logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.maps, maps, rtol=1e-3, atol=1e-3)
    assert not model.prototypes.classes[1].any()


@pytest.mark.parametrize("shape", [(2, 6), (1, 5), (6,)])
def test_a_file_with_caps_of_another_number(shape, tmp_path):
    with stand_ins.imported(stand_ins.checkout("protopnet", tmp_path / "checkout")) as module:
        state = stand_ins.build("protopnet", module).state_dict()
    torch.save({**state, "cap_width_l2": torch.zeros(shape), "non_vis_mask": torch.ones(6)}, tmp_path / "wrong.pth")
    with pytest.raises(RequestError, match=r"is broken: cap_width_l2 is"):
        official_checkpoints.convert("protoconcepts", tmp_path / "wrong.pth", tmp_path / "out")
    with pytest.raises(RequestError, match="written by protoconcepts, not by protopnet"):
        official_checkpoints.convert("protopnet", tmp_path / "wrong.pth", tmp_path / "out")
    assert not (tmp_path / "out.safetensors").exists()
