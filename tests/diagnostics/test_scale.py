"""Real measurements on the smallest sizes: complete, consistent, and honest about what does not fit."""

import json
import sys

import pytest
import torch

from bench.diagnostics.profiling import (
    Measurement,
    ProfiledMethod,
    ProfileSizes,
    choices,
    chosen,
    in_new_process,
    measure,
)
from bench.diagnostics.scale import scale
from bench.report.measurement_tables import scale_table
from bench.report.renderers import as_markdown

CPU = torch.device("cpu")
SIZES = ProfileSizes("tiny", classes=3, size=64)

PLUGIN = """
import torch
from baselines.protopnet import ProtoPNet, ProtoPNetLearner
from bench.core import registry
from bench.config.schedule import Phase, Schedule


class Wasteful(ProtoPNetLearner):
    def forward(self, images, labels, phase):
        losses = super().forward(images, labels, phase)
        if self.config.wasteful:
            losses["loss"] = losses["loss"] + 0 * torch.ones(2**28).sum()
        return losses


class Large(ProtoPNet):
    name = "large"
    published_forms = {"literal": {"wasteful": True}}

    class Config(ProtoPNet.Config):
        wasteful: bool = False
        schedule: Schedule = Schedule(
            phases=(Phase(name="joint", epochs=1, lr={"prototypes": 0.001, "backbone": 0.001}),)
        )

    def learner(self, model, task):
        return Wasteful(model, task.config, task.progress)


registry.register("methods", "large", Large)
"""


def test_activations_are_what_the_backward_pass_needs():
    """Twice the images, twice the activations: nothing of the parameters is in the count."""
    one, two = (measure(Measurement("training", "protopnet", {}, SIZES, size, 1)) for size in (2, 4))
    assert one["status"] == two["status"] == "ok"
    # What does not grow with the images: the classes' own and others' terms of the last layer.
    grown = two["activation_bytes"] - one["activation_bytes"]
    assert 0 < grown <= one["activation_bytes"]
    assert one["activation_bytes"] - grown < 0.2 * one["activation_bytes"]
    assert one["phase"] == "joint"
    assert one["peak_bytes"] > 0


def test_parameters_are_those_of_the_network():
    found = measure(Measurement("inference", "protopnet", {"per_class": 2, "depth": 8}, SIZES, 2, 1))
    backbone = sum(one.numel() for one in ProfiledMethod("protopnet", SIZES).task.backbone().parameters())
    add_on = (128 * 8 + 8) + (8 * 8 + 8)
    assert found["parameters"] == backbone + add_on + 6 * 8 + 6 * 3
    assert found["images_per_second"] > 0


def test_the_phase_is_the_one_in_which_most_learns():
    learner, phase = ProfiledMethod("protopnet", SIZES).learner()
    assert phase.name == "joint"
    assert set(phase.lr) < set(learner.groups())


@pytest.mark.skipif(sys.platform != "linux", reason="nothing refuses memory on this system")
@pytest.mark.slow
def test_a_published_form_that_does_not_fit(tmp_path):
    """The literal form asks for 1 GiB; the limit is refused at the tensor, in its own process, at both batch sizes."""
    from bench.core import registry

    file = tmp_path / "plugin.py"
    file.write_text(PLUGIN)
    before = {kind: dict(names) for kind, names in registry.CATALOGUE.items()}
    try:
        registry.load_plugin(file)
        # A process begins with up to 700 MiB, where torch is a CUDA build.
        result = scale(
            ("large",), [3], "tiny", CPU, batch_size=2, size=64, steps=1, memory_limit=900 * 2**20, plugins=(str(file),)
        )
    finally:
        registry.CATALOGUE.update(before)
    here, literal = result["rows"]
    assert (here["form"], literal["form"]) == ("", "literal")
    assert here["training"]["status"] == "ok"
    assert literal["training"]["status"] == "oom"
    assert literal["training"]["overrun"]["tried_bytes"] == 2**30
    assert literal["training"]["overrun"]["batch_size"] == 1
    assert literal["training"]["larger_batch"]["batch_size"] == 2
    assert literal["inference"]["status"] == "ok"
    text = as_markdown([scale_table(result)])
    assert "large at 3 classes: out of memory in the published code's form (tried to allocate 1.0 GiB)" in text
    assert "OOM" in text


def test_each_measurement_is_a_process_of_its_own():
    result = scale(("ours",), [3], "tiny", CPU, batch_size=2, size=64, steps=1)
    (row,) = result["rows"]
    assert json.loads(json.dumps(result)) == result
    assert all(row[what]["status"] == "ok" for what in ("training", "inference", "decomposition"))
    assert row["training"]["of_the_black_box"]
    assert row["decomposition"]["images"] == 90
    text = as_markdown([scale_table(result)])
    assert "three quarters of the free memory" in text
    assert "unless --batch is given" in text
    assert "decomposition peak (GiB)" in text
    assert "decomposition: of 3 classes, 90 images" in text


def test_what_fails_says_why():
    found = in_new_process(Measurement("training", "protopnet", {"depth": 0}, SIZES, 2, 1))
    assert found["status"] == "failed"
    assert "depth" in found["reason"]


def test_settings_of_several_values_are_measured_each():
    pairs = ("protoconcepts.base=tesnet", "protoconcepts.subspace_form=gram,literal", "ours.k=5")
    assert choices(("protoconcepts", "protopnet"), pairs) == {
        f"protoconcepts (base=tesnet, subspace_form={form})": (
            "protoconcepts", {"base": "tesnet", "subspace_form": form}
        )
        for form in ("gram", "literal")
    } | {"protopnet": ("protopnet", {})}  # fmt: skip


def test_all_is_what_competes_and_the_black_box():
    names = chosen(("all",))
    assert {"ours", "protopnet", "blackbox"} <= set(names)
    assert "center" not in names
