"""Files shaped like the official ones: imported without their code, recognised, checked, loaded into our networks."""

import json
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines import official_checkpoints, official_files
from baselines.protopnet import ProtoPNet
from bench.config.schedule import Schedule
from bench.contract import CellError, RequestError, Sizes
from bench.core import registry
from bench.models import torchvision
from bench.models.external import ExternalFile
from tests.support import official_checkouts as stand_ins
from tests.support.classifiers import data_parallel
from tests.support.samples import SmallNet, stripes, task

PLAIN = ("protopnet", "tesnet", "protopool", "deformable", "st-protopnet")
"""Methods of which a state dict has all; others: test_official_trees, test_official_shared, test_protoconcepts."""
WRITERS = (*PLAIN, "evalprotopnet", "prototree", "protopshare")
"""Methods with a stand-in for their code."""

SIZES = Sizes(classes=3, images_per_class=5, channels=16, cells=16, backbone="resnet18")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save an official file; return it with the network's answers for some images."""
    made = {}

    def make(method, form="module", change=lambda network: None, zipped=True, **options):
        key = (method, form, change, zipped, tuple(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(method)
            with stand_ins.imported(stand_ins.checkout(method, folder / "checkout")) as module:
                network = stand_ins.build(method, module, **options)
                change(network)
                state = network.state_dict()
                content = {
                    "module": network,
                    "parallel": data_parallel(network),
                    "state": state,
                    "prefixed": {f"module.{name}": tensor for name, tensor in state.items()},
                    "nested": {"model_state_dict": state, "epoch": 3},
                    "as saved": stand_ins.as_saved(method, network),
                }[form]
                torch.save(content, folder / "official.pth", _use_new_zipfile_serialization=zipped)
                answers = stand_ins.answers(method, network, images())
            made[key] = folder / "official.pth", {name: tensor.clone() for name, tensor in state.items()}, answers
        return made[key]

    return make


def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def prune(network):
    network.prune_prototypes([0, 3])


def ours(tmp_path, file, name="protopnet", **settings):
    """The network of ours that a converted file makes."""
    method = registry.load("methods", name)
    config = method.Config(checkpoint=str(file), schedule=Schedule(phases=[]), **settings)
    return official_checkpoints.build(method(), task(tmp_path, stripes(), config, backbone_name="resnet18"))


FORMS = [
    ("module", True),
    ("module", False),
    ("parallel", True),
    ("state", True),
    ("prefixed", False),
    ("nested", True),
]


@pytest.mark.parametrize(
    ("method", "form", "zipped"),
    [
        *((method, *form) for method in PLAIN for form in FORMS),
        *((method, "as saved", zipped) for method in (*PLAIN, "evalprotopnet") for zipped in (True, False)),
    ],
)
def test_every_form_gives_the_same_tensors(method, form, zipped, saved, tmp_path):
    path, state, _ = saved(method, form, zipped=zipped)
    facts = official_checkpoints.convert(method, path, tmp_path / "out")
    found = load_file(tmp_path / "out.safetensors")
    identity = found.pop("prototype_class_identity", None)
    assert set(found) == set(state) - {"ones"}
    assert all(torch.equal(found[name], state[name]) for name in found)
    assert (identity is None) == (method == "protopool")
    assert facts["classes"] == 3
    assert facts["per_class"] == 2
    assert facts["prototypes"] == (7 if method == "protopool" else 6)
    assert facts["depth"] == (16 if method == "deformable" else 5)
    assert facts["format"] == ("zip" if zipped else "legacy")
    kinds = {
        "protopnet": "PPNet", "tesnet": "TESNet", "protopool": "PrototypeChooser", "deformable": "PPNet",
        "st-protopnet": "STProtoPNet",
    }  # fmt: skip
    pickled = form in ("module", "parallel") or (form == "as saved" and method in ("protopnet", "tesnet", "deformable"))
    assert facts["class"] == (kinds[method] if pickled else None)
    assert (
        json.loads((tmp_path / "out.json").read_text())
        == facts
        == official_checkpoints.facts_of(tmp_path / "out.safetensors")
    )


def logits_by_hand(state, identity, features):
    """Section 5 written out: distances, their least over the cells, log similarity, one linear layer."""
    z = features
    convolutions = sorted({int(name.split(".")[1]) for name in state if name.startswith("add_on_layers.")})
    for place in convolutions:
        weight, bias = state[f"add_on_layers.{place}.weight"][:, :, 0, 0], state[f"add_on_layers.{place}.bias"]
        z = torch.einsum("oi,nihw->nohw", weight, z) + bias[:, None, None]
        z = torch.sigmoid(z) if place == convolutions[-1] else z.clamp(min=0)
    prototypes = state["prototype_vectors"][:, :, 0, 0]
    d = ((z[:, None] - prototypes[None, :, :, None, None]) ** 2).sum(2)
    similarity = torch.log((d + 1) / (d + 1e-4))
    assert prototypes.shape[0] == len(identity)
    return similarity.amax((2, 3)) @ state["last_layer.weight"].T, similarity


@pytest.mark.parametrize("change", [lambda network: None, prune], ids=["whole", "pruned"])
@pytest.mark.parametrize("kind", ["regular", "bottleneck"])
def test_our_protopnet_answers_as_the_official_network(kind, change, saved, tmp_path):
    path, state, (logits, _) = saved("protopnet", change=change, kind=kind)
    facts = official_checkpoints.convert("protopnet", path, tmp_path / "out.safetensors")
    model = ours(tmp_path, tmp_path / "out.safetensors", per_class=9, depth=11)
    classes = [0, 0, 1, 1, 2, 2] if change is not prune else [0, 1, 2, 2]
    assert model.prototypes.classes.int().argmax(1).tolist() == classes
    assert facts["per_class"] == (2 if change is not prune else [1, 2])
    assert facts["add_on"] == (2 if kind == "regular" else 4)
    assert not model.training
    with torch.no_grad():
        features = model.backbone(images())
        expected, maps = logits_by_hand(state, classes, features)
        explained = model.explain(images())
        own = model.explain(images(), torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(model(images()), logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(explained.logits, expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(explained.maps, maps, rtol=1e-3, atol=1e-3)
    if change is prune:
        assert own.indices.tolist() == [[0, -1], [1, -1], [2, 3], [0, -1]]
    assert torch.equal(model.backbone.state_dict()["body.0.weight"], state["features.body.0.weight"])


@pytest.mark.parametrize("name", WRITERS)
def test_our_networks_answer_as_the_official_ones(name, saved, tmp_path):
    path, _, (logits, maps) = saved(name, "as saved")
    official_checkpoints.convert(name, path, tmp_path / "out.safetensors")
    model = ours(tmp_path, tmp_path / "out.safetensors", name)
    with torch.no_grad():
        explained = model.explain(images())
    torch.testing.assert_close(explained.logits, logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(explained.maps, maps, rtol=1e-3, atol=1e-3)


def test_classes_that_are_only_in_the_arguments(saved, tmp_path):
    """EvalProtoPNet's file has them there, with the prefix of a parallel module or without; its tensors do not."""
    path, state, _ = saved("evalprotopnet", "as saved")
    expected = official_checkpoints.convert("evalprotopnet", path, tmp_path / "out")
    content = torch.load(path, weights_only=False)
    content["model"] = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(content, tmp_path / "parallel.pth")
    facts = official_checkpoints.convert("evalprotopnet", tmp_path / "parallel.pth", tmp_path / "parallel")
    assert facts["sizes"] == expected["sizes"]
    plain, parallel = (load_file(tmp_path / f"{name}.safetensors") for name in ("out", "parallel"))
    assert plain.keys() == parallel.keys()
    assert all(torch.equal(plain[name], parallel[name]) for name in plain)
    for wrong in (None, "3", 4, 0, True):
        torch.save({**content, "args": Namespace(nb_classes=wrong)}, tmp_path / "wrong.pth")
        with pytest.raises(RequestError, match="does not say for how many classes its 6 prototypes are"):
            official_checkpoints.convert("evalprotopnet", tmp_path / "wrong.pth", tmp_path / "none")
    for bare in (content["model"], {**content, "args": [3]}):
        torch.save(bare, tmp_path / "bare.pth")
        with pytest.raises(RequestError, match="with the arguments in it"):
            official_checkpoints.convert("evalprotopnet", tmp_path / "bare.pth", tmp_path / "none")
    assert not (tmp_path / "none.safetensors").exists()


def test_a_state_dict_lists_its_assumptions(saved, tmp_path):
    path, _, _ = saved("protopnet", "state")
    facts = official_checkpoints.convert("protopnet", path, tmp_path / "out")
    assert facts["assumed"] == ["activation", "epsilon", "class identity"]
    assert "protopnet and tesnet write the same state dict; taken for protopnet" in facts["doubt"]
    assert official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "whole")["assumed"] == []


def test_a_pruned_state_dict_lacks_its_classes(saved, tmp_path):
    path, _, _ = saved("protopnet", "state", prune)
    with pytest.raises(RequestError, match=r"4 prototypes for 3 classes.*import the whole pickled model"):
        official_checkpoints.convert("protopnet", path, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("asked", official_files.SHAPES)
@pytest.mark.parametrize("writer", WRITERS)
def test_the_method_is_recognised(asked, writer, saved, tmp_path):
    if asked == writer:
        return
    with pytest.raises(RequestError, match=f"written by {writer}, not by {asked}: python -m bench import {writer} "):
        official_checkpoints.convert(asked, saved(writer)[0], tmp_path / "out")


@pytest.mark.parametrize(
    ("key", "writer"),
    [
        ("model.add_on_layers.conv_last.weight", "pixpnet"),
        ("cap_width_l2", "protoconcepts"),
    ],
)
def test_files_of_other_methods_are_named(key, writer, tmp_path):
    torch.save({key: torch.ones(2), "prototype_vectors": torch.ones(2, 3, 1, 1)}, tmp_path / "other.pth")
    with pytest.raises(RequestError, match=f"written by {writer}, not by protopnet: python -m bench import {writer} "):
        official_checkpoints.convert("protopnet", tmp_path / "other.pth", tmp_path / "out")


def without(name):
    return lambda state: state.pop(name)


def reshaped(name, *shape):
    return lambda state: state.update({name: torch.zeros(shape)})


WRONG = {
    "no prototypes": ("protopnet", without("prototype_vectors"), "no: prototype_vectors"),
    "no last layer": ("protopool", without("last_layer.weight"), "no: last_layer.weight"),
    "no bias": ("protopnet", without("add_on_layers.2.bias"), "no: add_on_layers.2.bias"),
    "something else": ("protopnet", reshaped("classifier.weight", 2, 2), "unknown: classifier.weight"),
    "one convolution": (
        "protopnet",
        lambda state: (state.pop("add_on_layers.2.weight"), state.pop("add_on_layers.2.bias")),
        "it has 1 convolutions",
    ),
    "last layer of another width": ("protopnet", reshaped("last_layer.weight", 3, 7), "last_layer.weight is (3, 7)"),
    "prototypes of patches": ("protopnet", reshaped("prototype_vectors", 6, 5, 2, 2), "prototype_vectors is (6, 5, 2"),
    "prototypes of another depth": ("protopnet", reshaped("prototype_vectors", 6, 4, 1, 1), "prototypes of 4 channels"),
    "add-on of another width": ("tesnet", reshaped("add_on_layers.2.weight", 5, 4, 1, 1), "add_on_layers.2.weight is"),
    "slots of another number": ("protopool", reshaped("last_layer.weight", 3, 5), "last_layer.weight is (3, 5)"),
    "offsets of another number": ("deformable", reshaped("conv_offset.2.bias", 9), "conv_offset.2.bias is (9,)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_shapes_are_checked_against_the_tables(name, saved, tmp_path):
    method, change, expected = WRONG[name]
    state = dict(saved(method, "state")[1])
    change(state)
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(RequestError) as error:
        official_checkpoints.convert(method, tmp_path / "wrong.pth", tmp_path / "out")
    assert expected in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("content", [3, [torch.ones(2)], {"epoch": 3}, {}, torch.ones(3), {"model": {}}])
def test_files_without_a_network(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(RequestError, match="holds no network"):
        official_checkpoints.convert("protopnet", tmp_path / "other.pth", tmp_path / "out")


def test_modules_that_contain_one_another_end(tmp_path):
    first, second = torch.nn.Module(), torch.nn.Module()
    first.register_parameter("w", torch.nn.Parameter(torch.ones(1)))
    first._modules["a"], first._modules["b"] = second, second
    second._modules["a"], second._modules["b"] = first, first
    torch.save(first, tmp_path / "endless.pth")
    with pytest.raises(RequestError, match="contain one another"):
        official_checkpoints.convert("protopnet", tmp_path / "endless.pth", tmp_path / "out")


def test_fleeting_buffers_are_left_out(saved, tmp_path):
    def change(network):
        network.register_buffer("fleeting", torch.ones(2), persistent=False)

    official_checkpoints.convert("protopnet", saved("protopnet", change=change)[0], tmp_path / "out")
    assert "fleeting" not in load_file(tmp_path / "out.safetensors")


def test_an_existing_file_of_other_origin_stays(saved, tmp_path):
    official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "out")
    before = (tmp_path / "out.safetensors").read_bytes()
    official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "out")
    assert (tmp_path / "out.safetensors").read_bytes() == before
    with pytest.raises(RequestError, match="was made from another file"):
        official_checkpoints.convert("protopnet", saved("protopnet", change=prune)[0], tmp_path / "out")
    assert (tmp_path / "out.safetensors").read_bytes() == before
    save_file({"x": torch.ones(1)}, tmp_path / "mine.safetensors")
    with pytest.raises(RequestError, match="is not an imported checkpoint"):
        official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "mine")
    (tmp_path / "notes.json").write_text("mine")
    with pytest.raises(RequestError, match=r"notes\.json exists: give another name"):
        official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "notes")
    with pytest.raises(RequestError, match="cannot be written"):
        official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "notes.json" / "out")
    assert (tmp_path / "notes.json").read_text() == "mine"


# Official numbers of tensors; of the small networks those of torchvision's definitions.
COUNTS = {"resnet34": 216, "resnet152": 930, "vgg19": 32, "densenet121": 725, "densenet161": 965}


@pytest.mark.parametrize("name", COUNTS)
def test_architectures_are_recognised_by_their_tensors(name):
    with torch.device("meta"):
        state = getattr(torchvision, name)().state_dict()
    shapes = {f"features.{key}": tuple(tensor.shape) for key, tensor in state.items()}
    assert len(shapes) == COUNTS[name]
    head = {"prototype_vectors": (2000, 128, 1, 1), "last_layer.weight": (200, 2000)}
    assert official_files.architecture({**shapes, **head}) == name
    # Files of torch before 0.4.1 have no counters.
    old = {key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")}
    assert official_files.architecture(old) == name
    first = next(iter(shapes))
    assert official_files.architecture({**shapes, first: (1, *shapes[first][1:])}) is None
    # ResNet-50 of Deformable ProtoPNet has a fourth block in its last layer.
    assert official_files.architecture({**shapes, "features.layer4.3.bn1.bias": (512,)}) is None


def checked(file, **facts):
    """Check a file whose header has these facts besides fitting ones."""
    fits = {"method": "protopnet", "classes": 3, "architecture": "resnet18", "channels": 16, "activation": "log"}
    header = {"partbench": json.dumps({**fits, "epsilon": 1e-4, **facts})}
    save_file({"x": torch.ones(1)}, file, metadata=header)
    official_checkpoints.check("protopnet", ProtoPNet.Config(checkpoint=str(file), schedule=Schedule(phases=[])), SIZES)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"method": "tesnet"}, "is a checkpoint of tesnet"),
        ({"classes": 200}, "knows 200 classes, the data has 3"),
        ({"architecture": "resnet34"}, "made with resnet34, not resnet18: --backbones resnet34"),
        ({"architecture": None}, "none of ours: evaluate it with the official code"),
        ({"channels": 512}, "none of ours"),
        ({"activation": "linear"}, "the similarity 'linear'"),
        ({"epsilon": 1e-6}, "with epsilon 1e-06"),
        ({"activation": official_checkpoints._FUNCTION}, "by a function it lacks"),
    ],
)
def test_a_misfit_is_refused_before_the_run(facts, expected, tmp_path):
    checked(tmp_path / "fits.safetensors")
    with pytest.raises(RequestError) as error:
        checked(tmp_path / "wrong.safetensors", **facts)
    assert expected in str(error.value)


def test_a_file_that_is_not_converted_is_refused(saved, tmp_path):
    with pytest.raises(RequestError, match=r"not a \.safetensors file: make one with `python -m bench import"):
        official_checkpoints.facts_of(saved("protopnet")[0])
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="cannot be read"):
        official_checkpoints.facts_of(tmp_path / "broken.safetensors")


def test_a_backbone_with_other_tensors_fails_the_cell(saved, tmp_path):
    official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "out")

    class Other(SmallNet):
        def __init__(self):
            super().__init__()
            self.body.append(torch.nn.Conv2d(16, 16, 1))

    config = ProtoPNet.Config(checkpoint=str(tmp_path / "out.safetensors"), schedule=Schedule(phases=[]))
    work = task(tmp_path, stripes(), config)
    work.backbone = Other
    with pytest.raises(CellError, match=r"does not fit protopnet: backbone\.body\.5"):
        official_checkpoints.build(ProtoPNet(), work)


def test_a_converted_file_is_its_content_not_its_place(saved, tmp_path):
    official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "one")
    official_checkpoints.convert("protopnet", saved("protopnet")[0], tmp_path / "two")
    assert ExternalFile.at(tmp_path / "one.safetensors").digest == ExternalFile.at(tmp_path / "two.safetensors").digest
