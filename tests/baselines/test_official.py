"""Official networks from a checkout, seen through the contract; the checkouts are stand-ins of the same names."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from baselines import external_repository, official_checkpoints, official_models
from baselines.st_protopnet import SupportST
from bench.config.schedule import Schedule
from bench.contract import BenchError, CellError, RequestError, Sizes
from bench.models.external import ExternalFile, NetworkConfig
from tests.support import official_checkouts as stand_ins
from tests.support.samples import stripes, task


class Config(NetworkConfig):
    """The sizes that each method's settings say, under one name each."""

    per_class: int = 2
    depth: int = 5


class PoolConfig(NetworkConfig):
    prototypes: int = 7
    slots: int = 2
    depth: int = 5


class TreeConfig(NetworkConfig):
    levels: int = 3
    depth: int = 5


class DeepConfig(NetworkConfig):
    """Deformable prototypes are as deep as the backbone."""

    per_class: int = 2


class BranchConfig(Config):
    branches: str = "both"


CONFIGS = {
    "protopnet": Config, "tesnet": Config, "protopool": PoolConfig, "deformable": DeepConfig,
    "evalprotopnet": Config, "st-protopnet": BranchConfig, "prototree": TreeConfig,
}  # fmt: skip
METHODS = list(CONFIGS)


@pytest.fixture(params=METHODS)
def method(request):
    return request.param


def given(method, folder, tmp_path, **rest):
    config = CONFIGS[method](source=str(folder), **rest)
    return task(tmp_path, stripes(), config, backbone_name="resnet18")


def images(count=4):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def trained(method, tmp_path):
    """An official network with its checkout and its file, converted."""
    folder = stand_ins.checkout(method, tmp_path / "checkout")
    with stand_ins.imported(folder) as module:
        network = stand_ins.build(method, module)
        torch.save(stand_ins.as_saved(method, network), tmp_path / "official.pth")
    official_checkpoints.convert(method, tmp_path / "official.pth", tmp_path / "out")
    return SimpleNamespace(method=method, folder=folder, network=network, file=tmp_path / "out.safetensors")


def built(trained, tmp_path):
    work = given(trained.method, trained.folder, tmp_path, checkpoint=str(trained.file))
    return official_models.build(trained.method, work, official_checkpoints.read(trained.file)).eval()


def test_logits_and_maps_are_the_networks_own(trained, tmp_path):
    model = built(trained, tmp_path)
    with torch.no_grad():
        logits, maps = stand_ins.answers(trained.method, trained.network, images())
        explained = model.explain(images())
        torch.testing.assert_close(model(images()), logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(explained.maps, maps, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(explained.scores, maps.amax((2, 3)), rtol=1e-4, atol=1e-4)
    assert len(model.prototypes) == {"protopool": 7, "prototree": 7, "st-protopnet": 12}.get(trained.method, 6)
    assert model.prototypes.classes.any(0).all()


def test_the_doors_agree(trained, tmp_path):
    model = built(trained, tmp_path)
    labels = torch.tensor([2, 0, 1, 2])
    with torch.no_grad():
        everything, own = model.explain(images()), model.explain(images(), labels)
        attribution = model.attribute(model.backbone(images()), labels)
        alone = model.explain(images()[:1], labels[:1])
    assert torch.equal(own.indices, model.prototypes.of(labels))
    torch.testing.assert_close(own.logits, everything.logits)
    torch.testing.assert_close(alone.logits, everything.logits[:1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(alone.maps, own.maps[:1], rtol=1e-4, atol=1e-4)
    for n, label in enumerate(labels.tolist()):
        for position, row in enumerate(own.indices[n].tolist()):
            if row >= 0:
                torch.testing.assert_close(own.maps[n, position], everything.maps[n, row])
        if trained.method == "protopool":
            slots, weight = trained.network.proto_presence.argmax(1).flatten(), trained.network.last_layer.weight
            by_hand = sum(weight[label, s] * everything.maps[n, row] for s, row in enumerate(slots.tolist()))
        elif trained.method == "evalprotopnet":
            shares = trained.network.activation_weight[2 * label : 2 * label + 2].softmax(0)
            by_hand = sum(2 * shares[j] * everything.maps[n, 2 * label + j] for j in range(2))
        elif trained.method == "st-protopnet":
            weight = torch.cat(
                [trained.network.last_layer_trivial.weight, trained.network.last_layer_support.weight], 1
            )
            by_hand = sum(weight[label, j] * everything.maps[n, j] for j in range(12))
        elif trained.method == "prototree":
            by_hand = way_to_class(trained.network, label, everything.scores[n], everything.maps[n])
        else:
            weight = trained.network.last_layer.weight[label]
            by_hand = sum(weight[j] * everything.maps[n, j] for j in range(6))
        torch.testing.assert_close(attribution[n], by_hand, rtol=1e-4, atol=1e-4)


def way_to_class(tree, label, s, maps):
    """The maps of the nodes at which the most probable path to a leaf of the class turns right."""
    found = []

    def walk(node, probability, rows):
        if not hasattr(node, "l"):
            if int(node._dist_params.argmax()) == label:
                found.append((probability, rows))
            return
        row = tree._out_map[node]
        walk(node.l, probability * (1 - s[row]), rows)
        walk(node.r, probability * s[row], [*rows, row])

    walk(tree._root, 1.0, [])
    return maps[max(found, key=lambda one: one[0])[1]].sum(0)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("method", ["st-protopnet"])
def test_one_branch_of_a_network_with_two(method, full, tmp_path):
    folder = stand_ins.checkout(method, tmp_path / "checkout", full=full)
    with stand_ins.imported(folder) as module:
        network = stand_ins.build(method, module)
        torch.save(network.state_dict(), tmp_path / "official.pth")
        with torch.no_grad():
            logits, _, maps = network(images())
    facts = official_checkpoints.convert(method, tmp_path / "official.pth", tmp_path / "out")
    assert facts["activation"] == ("cosine" if full else "projection")
    files = {"checkpoint": str(tmp_path / "out.safetensors"), "per_class": 9, "schedule": Schedule(phases=[])}
    both = SupportST.Config(**files, source=str(folder))
    official_checkpoints.check("support-st", both, Sizes(3, 12, 16, 16, "resnet18"))
    config = SupportST.Config(**files)
    ours = task(tmp_path, stripes(), config, backbone_name="resnet18")
    theirs = given(method, folder, tmp_path, branches="support", checkpoint=str(tmp_path / "out.safetensors"))
    converted = official_checkpoints.read(tmp_path / "out.safetensors")
    for model in (
        official_checkpoints.build(SupportST(), ours),
        official_models.build(method, theirs, converted).eval(),
    ):
        with torch.no_grad():
            found = model.explain(images())
        torch.testing.assert_close(found.logits, logits[1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.maps, maps[1], rtol=1e-4, atol=1e-4)
        assert model.prototypes.classes.int().argmax(1).tolist() == [0, 0, 1, 1, 2, 2]


def test_a_built_model_takes_its_saved_state_back(trained, tmp_path):
    model, other = built(trained, tmp_path), built(trained, tmp_path)
    other.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(model(images()), other(images()))


def test_random_weights_come_from_the_seed(method, tmp_path):
    folder = stand_ins.checkout(method, tmp_path / "checkout")
    one, two = (official_models.build(method, given(method, folder, tmp_path), None) for _ in range(2))
    with torch.no_grad():
        assert torch.equal(one(images()), two(images()))
        assert torch.isfinite(one(images())).all()
    other = task(tmp_path, stripes(), CONFIGS[method](source=str(folder)), seed=5, backbone_name="resnet18")
    name = "backbone.body.0.weight"
    assert not torch.equal(official_models.build(method, other, None).state_dict()[name], one.state_dict()[name])


def test_a_pruned_network(tmp_path):
    folder = stand_ins.checkout("protopnet", tmp_path / "checkout")
    with stand_ins.imported(folder) as module:
        network = stand_ins.build("protopnet", module, per_class=3, kind="bottleneck")
        network.prune_prototypes([0, 1, 4, 8])
        torch.save(network, tmp_path / "official.pth")
    official_checkpoints.convert("protopnet", tmp_path / "official.pth", tmp_path / "out")
    trained = SimpleNamespace(method="protopnet", folder=folder, network=network, file=tmp_path / "out.safetensors")
    model = built(trained, tmp_path)
    assert model.prototypes.classes.int().argmax(1).tolist() == [0, 1, 1, 2, 2]
    with torch.no_grad():
        torch.testing.assert_close(model(images()), network(images())[0])


def test_the_interpreter_is_left_as_it_was(method, tmp_path, capsys):
    folder = stand_ins.checkout(method, tmp_path / "checkout")
    # A foreign module of the same name is not changed.
    mine = sys.modules["utils"] = SimpleNamespace(mine=True)
    modules, path, finders = dict(sys.modules), list(sys.path), list(sys.meta_path)
    cuda, bytecode = torch.Tensor.cuda, sys.dont_write_bytecode
    try:
        official_models.build(method, given(method, folder, tmp_path), None)
        assert sys.modules["utils"] is mine
    finally:
        del sys.modules["utils"], modules["utils"]
    assert {name for name in sys.modules if name not in modules} <= {"torchvision.models.resnet"}
    assert all(sys.modules[name] is module for name, module in modules.items())
    assert (sys.path, sys.meta_path) == (path, finders)
    assert (torch.Tensor.cuda, sys.dont_write_bytecode) == (cuda, bytecode)
    assert "cuda" not in vars(torch.Tensor)
    assert not list(folder.rglob("__pycache__"))
    assert capsys.readouterr().out == ""


def test_installed_module_of_the_same_name_is_not_taken(tmp_path, monkeypatch):
    """TesNet's folders have no __init__.py: an installed package of that name would come first."""
    for name in ("models", "util"):
        (tmp_path / "installed" / name).mkdir(parents=True)
        (tmp_path / "installed" / name / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path / "installed"))
    folder = stand_ins.checkout("tesnet", tmp_path / "checkout")
    official_models.build("tesnet", given("tesnet", folder, tmp_path), None)
    assert not {"models", "util"} & set(sys.modules)


def test_packages_that_are_only_printed_with_need_not_be_there(tmp_path):
    folder = stand_ins.checkout("deformable", tmp_path / "checkout")
    file = folder / "resnet_features.py"
    file.write_text("from torchsummary import summary\n" + file.read_text())
    work = given("deformable", folder, tmp_path)
    official_models.build("deformable", work, None)
    assert work.facts["DCN replaced"] == 1
    assert not {"torchsummary", "DCN"} & set(sys.modules)


def test_modules_of_the_checkout_are_not_replaced(tmp_path):
    folder = stand_ins.checkout("deformable", tmp_path / "checkout")
    (folder / "Deformable-Convolution-V2-PyTorch" / "DCN.py").write_text("own = True\n")
    work = given("deformable", folder, tmp_path)
    network = official_models.build("deformable", work, None)
    assert work.facts == {}
    with pytest.raises(AttributeError, match="norm_preserve_deform_conv_forward"):
        network(images())


def test_downloads_are_refused(tmp_path):
    folder = stand_ins.checkout("protopnet", tmp_path / "checkout")
    work = given("protopnet", folder, tmp_path)
    work.backbone_name = "resnet34"  # of the stand-in: always asks for weights
    with pytest.raises(BenchError, match=r"asks to download https://example\.org/resnet34\.pth"):
        official_models.build("protopnet", work, None)


def test_cuda_means_the_device_of_the_features():
    layer = torch.nn.Linear(2, 2)
    with external_repository.contained(torch.device("meta")):
        assert torch.ones(2).cuda().device.type == "meta"
        assert torch.ones(2).cuda(0, non_blocking=True).device.type == "meta"
        assert layer.cuda().weight.device.type == "meta"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import nowhere_to_be_found\n", r"model\.py needs the package 'nowhere_to_be_found', which is not installed"),
        ("raise ValueError('no')\n", r"model\.py cannot be imported here \(ValueError: no\)"),
        ("raise SystemExit(3)\n", r"model\.py cannot be imported here \(SystemExit: 3\)"),
        ("def broken(:\n", "cannot be imported here .SyntaxError"),
        ("", "makes no protopnet that is known"),
        ("def construct_PPNet(what):\n    pass\n", "makes no protopnet that is known"),
    ],
)
def test_a_broken_checkout_is_refused_with_the_reason(text, expected, tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    (folder / "model.py").write_text(text)
    before = (dict(sys.modules), list(sys.meta_path))
    with pytest.raises(CellError, match=expected):
        official_models.build("protopnet", given("protopnet", folder, tmp_path), None)
    assert (dict(sys.modules), list(sys.meta_path)) == before


def test_weights_of_another_shape_fail_the_cell(tmp_path):
    folder = stand_ins.checkout("protopnet", tmp_path / "checkout")
    work = given("protopnet", folder, tmp_path)
    network = official_models.build("protopnet", work, None).network
    with pytest.raises(CellError, match=r"out does not fit the official network: .*add_on_layers\.0\.weight"):
        official_models._load(network, {"add_on_layers.0.weight": torch.ones(1)}, tmp_path / "out")
    with pytest.raises(CellError, match="does not fit the official network: add_on"):
        official_models._load(network, {"prototype_vectors": torch.ones(6, 5, 1, 1)}, tmp_path / "out")


@pytest.mark.parametrize(
    ("backbone", "file", "expected"),
    [
        ("resnet34", "main.py", "has no model.py: name a checkout of the official repository"),
        ("tiny", "model.py", "the official code knows no tiny: --backbones resnet34"),
        ("mobilenet_v2", "model.py", "knows no mobilenet_v2"),
    ],
)
def test_a_request_is_checked_without_running_the_code(backbone, file, expected, tmp_path):
    (tmp_path / file).write_text("raise SystemExit")
    config = Config(source=str(tmp_path))
    with pytest.raises(RequestError, match=expected):
        official_checkpoints.check("protopnet", config, Sizes(3, 5, 512, 49, backbone))


def test_a_checkout_is_its_code(tmp_path):
    folder = stand_ins.checkout("protopnet", tmp_path / "one")
    same = stand_ins.checkout("protopnet", tmp_path / "two")
    (same / "weights.pth").write_bytes(b"large")
    (same / ".git").mkdir()
    (same / ".git" / "hook.py").write_text("")
    assert ExternalFile.at(folder).digest == ExternalFile.at(same).digest
    (same / "model.py").write_text((same / "model.py").read_text() + "\n")
    assert ExternalFile.at(folder).digest != ExternalFile.at(same).digest


def test_a_git_checkout_records_its_commit(tmp_path):
    folder = stand_ins.checkout("protopnet", tmp_path / "checkout")
    assert set(ExternalFile.at(folder).record()) == {"path", "digest"}
    git = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert head.startswith(ExternalFile.at(folder).record()["commit"])
    (folder / "model.py").write_text("")
    assert ExternalFile.at(folder).record()["commit"].endswith("-dirty")
