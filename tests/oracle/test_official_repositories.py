"""Our networks beside the code in the official repositories: the same weights, in double precision.

It executes code of checkouts, where OFFICIAL_CODE names their folder; ``-s`` prints the largest absolute differences:

    OFFICIAL_CODE=FOLDER pytest -s tests/oracle/test_official_repositories.py
"""

from __future__ import annotations

import copy
import random
from argparse import Namespace
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torchvision import models

from baselines import external_repository, layers, official_checkpoints, pixel_maps, soft_tree
from baselines.evalprotopnet import Aggregation, EvalProtoPNet, EvalProtoPNetLearner
from baselines.pipnet import PIPNet, PIPNetLearner, PIPNetModel
from baselines.pixpnet import PixPNet, PixPNetLearner, PixPNetModel
from baselines.protoconcepts import ProtoConcepts, ProtoConceptsLearner, ProtoConceptsModel, patches_inside
from baselines.protopnet import ProtoPNetModel
from baselines.protopool import ProtoPoolModel
from baselines.protopshare import ProtoPShare, ProtoPShareLearner
from baselines.prototree import ProtoTree, ProtoTreeLearner, ProtoTreeModel
from baselines.st_protopnet import STProtoPNet, STProtoPNetLearner, STProtoPNetModel
from baselines.tesnet import TesNetModel
from bench.config.schedule import Schedule
from bench.models import backbones
from bench.models.torchvision import resnet18
from tests.support.official_repositories import CPU, ROOT, Recorder, apart, loaded, official, report, settled, slopes
from tests.support.samples import Silent, SmallNet, TensorSamples, task

pytestmark = [pytest.mark.slow, pytest.mark.skipif(ROOT is None, reason="OFFICIAL_CODE names no folder of checkouts")]
CLASSES, PER_CLASS, DEPTH = 4, 5, 16
SHAPE = CLASSES * PER_CLASS, DEPTH, 1, 1
LABELS = torch.tensor([0, 3, 1, 1])


@pytest.fixture(autouse=True)
def _double():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def test_evalprotopnet():
    images = torch.randn(4, 3, 64, 64)
    with official("EvalProtoPNet", "model.py") as module:
        net = settled(module.construct_OursNet("resnet18", False, 64, SHAPE, CLASSES, "log", "regular"))
        net.activation_weight.data.normal_()
        logits, (nearest, activations, shallow, deep) = net(images)
        theirs = {
            "cluster": net.get_clst_loss(nearest, LABELS), "separation": net.get_sep_loss(nearest, LABELS),
            "orthonormality": net.get_ortho_loss(),
            "alignment": net.get_SDFA_loss(activations, shallow, deep, LABELS, consis_thresh=0.1),
        }  # fmt: skip
        loss = torch.nn.functional.cross_entropy(logits, LABELS) + 0.8 * theirs["cluster"] - 0.08 * theirs["separation"]
        recorder = Recorder(net)
        (loss + 1e-4 * theirs["orthonormality"] + 0.5 * theirs["alignment"]).backward()
        recorder.step()
        maps = net.push_forward(images)[1]
    last = Aggregation(CLASSES, PER_CLASS)
    model = loaded("evalprotopnet", TesNetModel(resnet18(), CLASSES, PER_CLASS, DEPTH, 1, last), net.state_dict())
    seen = model.explain(images)
    learner = EvalProtoPNetLearner(model, EvalProtoPNet.Config(schedule=Schedule(phases=[])), Silent())
    gradients, ours = slopes("evalprotopnet", learner, recorder.steps[0], images, LABELS)
    terms = {name: apart(ours[name], value) for name, value in theirs.items()}
    report(
        "evalprotopnet", logits=apart(seen.logits, logits), maps=apart(seen.maps, maps), **terms, gradients=gradients
    )


def test_pipnet():
    images, both = torch.randn(4, 3, 64, 64), {}
    model = PIPNetModel(SmallNet(), CLASSES, 6, 2).eval()
    config = PIPNet.Config(views="mirror", schedule=Schedule(phases=[]))
    learner = PIPNetLearner(model, config, Silent(), TensorSamples(images, LABELS, CLASSES))
    with official("PIPNet", "pipnet/pipnet.py") as module:
        head, pool = module.NonNegLinear(6, CLASSES, bias=False), torch.nn.AdaptiveMaxPool2d(1)
        head.weight, pool = model.last_layer.weight, torch.nn.Sequential(pool, torch.nn.Flatten())
        net = module.PIPNet(CLASSES, 6, model.backbone, Namespace(num_features=6), model.to_shares, pool, head)
        both["logits"] = model(images), net(images, inference=True)[2]
    with official("PIPNet", "pipnet/train.py") as module:
        for form, weights in {"pretrain": (1, 5, 0, 0), "finetune": (0, 0, 0, 2), "joint": (5, 2, 0, 2)}.items():
            learner.before_epoch(0)
            model.requires_grad_(form != "finetune").last_layer.requires_grad_(form != "pretrain")
            shares, *rest = net(torch.cat([images, images.flip(-1)]))
            shares, stage = torch.cat([shares[:4], shares[4:].flip(-1)]), (form == "pretrain", form == "finetune")
            more = (*weights, 2, *stage, torch.nn.NLLLoss(), None, False, 1e-8)
            pair = learner(images, LABELS, form)["loss"], module.calculate_loss(shares, *rest, LABELS, *more)[0]
            learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
            slopes_of = [torch.cat([s.flatten() for s in torch.autograd.grad(loss, learnt)]) for loss in pair]
            both |= {form: pair, f"gradients of {form}": slopes_of}
    report("pipnet", **{name: apart(*pair) for name, pair in both.items()})


@pytest.mark.parametrize(("net", "count"), [("resnet18", 0), ("resnet18", 6), ("convnext_tiny_26", 0)])
def test_files_of_pipnet(net, count, tmp_path):
    images, settings = (
        torch.randn(2, 3, 96, 96),
        Namespace(net="resnet18", num_features=count, disable_pretrained=True, bias=False),
    )
    name = "resnet18@stride=8" if net == "resnet18" else "torchvision:convnext_tiny@stride=8"
    with official("PIPNet", "pipnet/pipnet.py") as module:
        features, add_on, pool, head, prototypes = module.get_network(CLASSES, settings)
        if net != "resnet18":
            with official("PIPNet", "features/convnext_features.py") as other:
                # As its own function does after a download of weights.
                features = other.replace_convlayers_convnext(models.convnext_tiny(weights=None), 100)
            features.avgpool = features.classifier = torch.nn.Identity()
            features.features[7][2].layer_scale.data.fill_(20)  # else no share reaches the threshold
            settings.num_features = prototypes = 768
            head = module.NonNegLinear(prototypes, CLASSES, bias=False)
        theirs = settled(module.PIPNet(CLASSES, prototypes, features, settings, add_on, pool, head))
        # Of either sign, where the official layer takes the ReLU.
        head.weight.data.normal_()
        state = torch.nn.DataParallel(theirs).state_dict()
        torch.save({"model_state_dict": state, "optimizer_net_state_dict": {}}, tmp_path / "net_trained_last")
        with torch.no_grad():
            maps, scores, logits = theirs(images, inference=True)
    official_checkpoints.convert("pipnet", tmp_path / "net_trained_last", tmp_path / "out")
    config = PIPNet.Config(checkpoint=str(tmp_path / "out.safetensors"), own=2, schedule=Schedule(phases=[]))
    work = task(tmp_path, TensorSamples(images, LABELS[:2], CLASSES), config)
    work.backbone = lambda: backbones.build(name, 96)
    with torch.no_grad():
        seen = official_checkpoints.build(PIPNet(), work).explain(images)
    assert scores.any()
    differences = {"maps": apart(seen.maps, maps), "logits": apart(seen.logits, logits)}
    report(f"pipnet's file, {name}, {prototypes} prototypes", **differences, scores=apart(seen.scores, scores))


@pytest.mark.parametrize("form", ["cropped", "full"])
def test_st_protopnet(form):
    images, folder = torch.randn(4, 3, 64, 64), f"ST-ProtoPNet/{form}"
    with official(folder, "model.py") as module:
        net = settled(module.construct_STProtoPNet("resnet18", False, 64, SHAPE, CLASSES, "log", "regular"))
        for branch in ("trivial", "support"):
            vectors = getattr(net, f"prototype_vectors_{branch}").data
            vectors.copy_(layers.unit(vectors.normal_()))
        logits = sum(net(images)[0])
        maps = -torch.cat([net.push_forward_trivial(images)[1], net.push_forward_support(images)[1]], 1)
    model = loaded("st-protopnet", STProtoPNetModel(resnet18(), CLASSES, PER_CLASS, DEPTH, form), net.state_dict())
    seen = model.explain(images)
    weights = {"crs_ent": 1, "clst_trv": -0.8, "sep_trv": 0.08, "clst_spt": -0.8, "sep_spt": 0.48, "orth": 1e-3}
    recorder = Recorder(net)
    with official(folder, "train_and_test.py") as module:
        batches = [(images, LABELS)] * 2  # one for each branch
        weights |= {"l1": 1e-4, "discr": 1.0, "close": 1.0}
        module._training(torch.nn.DataParallel(net), batches, recorder, True, True, weights, print)
    learner = STProtoPNetLearner(model, STProtoPNet.Config(schedule=Schedule(phases=[])), Silent())
    learner.before_epoch(0)
    gradients = []
    for step in recorder.steps:
        gradients.append(slopes("st-protopnet", learner, step, images, LABELS)[0])
        learner.after_step()
    more, labels = torch.randn(6, 3, 64, 64), torch.tensor([0, 1, 2, 3, 0, 2])
    learner.act("project", TensorSamples(more, labels, CLASSES))
    rows = 0.0
    for branch in ("trivial", "support"):
        with official(folder, f"push_{branch}.py") as module:
            loader = type("Loader", (list,), {"batch_size": 4})([(more[:4], labels[:4]), (more[4:], labels[4:])])
            module.push_prototypes(loader, torch.nn.DataParallel(net), log=print)
        theirs = getattr(net, f"prototype_vectors_{branch}")
        rows = max(rows, apart(model.branches[branch].prototype_vectors, theirs))
    shown = apart(seen.maps, maps.relu() if form == "full" else maps)
    report(f"st-protopnet, {form}", logits=apart(seen.logits, logits), maps=shown, gradients=max(gradients))
    # The official code projects in single precision.
    report("  projection", 1e-6, prototypes=rows)


def concepts(base):
    """Official network on a base, its weights in ours, and the settings of the published losses."""
    folder, file = {
        "protopnet": ("ProtoPNet-Concept_final", "model_ctrl_caps.py"),
        "tesnet": ("TesNet-Concept_final", "model_cap.py"),
        "protopool": ("ProtoPool-Concept_final", "model_cap_final.py"),
    }[base]
    folder = f"This-looks-like-those_ProtoConcepts/{folder}"
    with official(folder, file) as module:
        if base == "protopool":
            net = module.Protopool_cap(
                13, 3, CLASSES, False, "resnet18", False, "regular", "log", DEPTH, True, False, 8.4
            )
        else:
            make = module.construct_PPNet if base == "protopnet" else module.construct_TesNet
            order = (8.4, CLASSES) if base == "protopnet" else (CLASSES, 8.4)
            net = make("resnet18", False, 64, SHAPE, *order, "log", "regular")
    settled(net)
    net.cap_width_l2.data += 0.6 * torch.randn_like(net.cap_width_l2)
    if base == "tesnet":
        net.prototype_vectors.data = layers.unit(net.prototype_vectors.data)
    if base == "protopool":
        network = ProtoPoolModel(resnet18(), CLASSES, 13, 3, DEPTH)
        more = {"per_class": 3, "prototypes": 13, "caps": 3e-3}
    else:
        network = {"protopnet": ProtoPNetModel, "tesnet": TesNetModel}[base](resnet18(), CLASSES, PER_CLASS, DEPTH)
        more = {"caps": 0.01} if base == "protopnet" else {"separation": 0.2, "caps": 3e-5}
    model = loaded("protoconcepts", ProtoConceptsModel(network, 0.0), net.state_dict())
    model.settle()
    config = ProtoConcepts.Config(base=base, nearest=3, mixup=0, schedule=Schedule(phases=[]), **more)
    return folder, net, model, ProtoConceptsLearner(model, config, Silent())


@pytest.mark.parametrize("base", ["protopnet", "tesnet", "protopool"])
def test_protoconcepts(base):
    images = torch.randn(4, 3, 64, 64)
    folder, net, model, learner = concepts(base)
    seen = model.explain(images)
    with external_repository.contained(CPU), torch.no_grad():
        if base == "protopool":
            # Inference takes the prototype of the largest presence; the official code adds noise there.
            presence = net.proto_presence.clone()
            net.proto_presence.copy_(torch.zeros_like(presence).scatter(1, presence.argmax(1, keepdim=True), 1e4))
            logits, maps = net(images, gumbel_scale=0)[0], net.prototype_distances(images)
            net.proto_presence.copy_(presence)
        else:
            logits, maps = net(images)[0], net.push_forward(images)[1]
        maps = maps if base == "tesnet" else net.distance_2_similarity(maps)
    recorder = Recorder(net)
    if base == "protopool":
        official_pool_step(folder, net, images, recorder)
        learner.before_epoch(0)
    else:
        file = "train_and_test_ctrl_caps.py" if base == "protopnet" else "train_and_test_cap.py"
        weights = {"crs_ent": 1, "clst": 0.8, "l1": 1e-4}
        with official(folder, file) as module:
            batches = torch.nn.DataParallel(net), [(images, LABELS)], recorder, True
            if base == "protopnet":
                module._train_or_test(*batches, 3, weights | {"sep": -0.08, "cap": 0.01}, print)
            else:
                weights |= {"sep": -0.2, "orth": 5e-3, "sub_sep": -5e-5, "cap_coef": 3e-5}
                module._train_or_test(*batches, True, weights, print, 3)
    gradients, _ = slopes("protoconcepts", learner, recorder.steps[0], images, LABELS)
    more, labels = torch.randn(6, 3, 64, 64), torch.tensor([0, 1, 2, 3, 0, 2])
    inside = patches_inside(model, TensorSamples(more, labels, CLASSES), Silent())
    with external_repository.contained(CPU), torch.no_grad():
        seen_there = net(more, vis_cap=True)
        activations, caps = (seen_there[2], seen_there[0]) if base == "protopool" else seen_there
        within = activations > (net.max_act_l2 - caps).clamp(min=0)
    counts = (within.sum((2, 3)) * model.prototypes.classes.T[labels]).sum(0)
    report(
        f"protoconcepts on {base}", logits=apart(seen.logits, logits), maps=apart(seen.maps, maps), gradients=gradients,
        patches_inside=apart(inside.double(), counts.double()),
    )  # fmt: skip


def official_pool_step(folder, net, images, recorder):
    """The loss of the official training script, whose cluster and separation terms are functions of it."""
    source = (Path(ROOT) / folder / "main_cap_final.py").read_text()
    functions: dict = {"torch": torch}
    exec(source[source.index("def dist_loss") : source.index("if __name__", source.index("def dist_loss"))], functions)
    with external_repository.contained(CPU):
        logits, nearest, presence = net(images, gumbel_scale=0)[:3]
        own = presence[LABELS.tolist()]
        cluster = functions["dist_loss"](net, nearest, own, 3, topk_loss=True, k=3)
        separation = functions["dist_loss"](net, nearest, 1 - own, 10, topk_loss=True, sep=True)
        slots = net.proto_presence
        apart_slots = torch.nn.functional.cosine_similarity(slots.unsqueeze(2), slots.unsqueeze(-1), dim=1)
        foreign = (net.last_layer.weight * (1 - net.prototype_class_identity.T)).norm(p=1)
        loss = torch.nn.functional.cross_entropy(logits, LABELS) + 0.8 * cluster - 0.08 * separation + 1e-4 * foreign
        loss = loss + apart_slots.sum() / (3 * CLASSES) - 1 + 3e-3 * torch.linalg.norm(net.cap_width_l2)
        recorder.zero_grad()
        loss.backward()
        recorder.step()


def test_prototree():
    silent = SimpleNamespace(log_message=lambda text: None, log_values=lambda *values: None)
    images, labels = torch.randn(40, 3, 64, 64), torch.arange(40) % CLASSES
    settings = Namespace(
        net="resnet18", disable_pretrained=True, num_features=DEPTH, depth=4, W1=1, H1=1, log_probabilities=False,
        kontschieder_normalization=False, kontschieder_train=False, disable_derivative_free_leaf_optim=False,
    )  # fmt: skip
    drawn = random.Random(0)
    with official("ProtoTree", "util/net.py") as module:
        from prototree.project import project_with_class_constraints
        from prototree.prune import prune

        features, add_on = module.get_network(CLASSES, settings)
        net = settled(module.ProtoTree(CLASSES, features, settings, add_on))
        net.prototype_layer.prototype_vectors.data.normal_(0.5, 0.1)
        worst = defaultdict(float)
        for _ in range(20):
            tree = copy.deepcopy(net)
            for leaf in tree.leaves:  # some predict nothing, others one class
                leaf._dist_params.data = 6 * torch.eye(CLASSES)[drawn.randrange(CLASSES)] * (drawn.random() < 0.4)
            ours, few = tree_of(tree), images[:4]
            learner = ProtoTreeLearner(ours, ProtoTree.Config(pruning=0.3, schedule=Schedule(phases=[])), Silent(), 5)
            learner.before_epoch(0)
            # One step: the loss, then the leaves.
            old = {leaf: leaf._dist_params.detach().clone() for leaf in tree.leaves}
            probabilities, info = tree(few)
            recorder = Recorder(tree)
            torch.nn.functional.nll_loss(probabilities.log(), LABELS).backward()
            recorder.step()
            learner(few, LABELS, "joint")["loss"].backward()
            rows = rows_of(tree)
            theirs = recorder.steps[0]["prototype_layer.prototype_vectors"][rows]
            worst["gradients"] = max(worst["gradients"], apart(ours.prototype_vectors.grad, theirs))
            with torch.no_grad():
                for leaf in tree.leaves:
                    arrived = info["pa_tensor"][leaf.index] * leaf.distribution() * torch.eye(CLASSES)[LABELS]
                    leaf._dist_params -= old[leaf] / 5
                    torch.nn.functional.relu_(leaf._dist_params)
                    leaf._dist_params += (arrived / probabilities).sum(0)
            learner.after_step()
            worst["leaves"] = max(worst["leaves"], apart(ours.leaves, leaves_of(tree)))
            learner.act("prune", None)
            prune(tree, 0.3, silent)
            assert int(ours.turns.any(0).sum()) == tree.num_branches
            with torch.no_grad():
                there = -tree.forward_partial(few)[1][:, rows]
                for route in ("distributed", "sample_max", "greedy"):
                    ours.route, seen = route, None
                    seen = ours.explain(few)
                    theirs = tree(few, route)[0]
                    worst[route] = max(worst[route], apart(seen.logits.exp(), theirs))
            worst["maps"] = max(worst["maps"], apart(seen.maps, there.exp()))
        learner.act("project", TensorSamples(images, labels, CLASSES))
        loader = [(images[:20], labels[:20]), (images[20:], labels[20:])]
        project_with_class_constraints(tree, loader, CPU, None, silent)
        kept = ours.turns.any(0)
        projected = apart(ours.prototype_vectors[kept], tree.prototype_layer.prototype_vectors[rows][kept])
    report("prototree, 20 trees", **worst, projection=projected)


def rows_of(net):
    """Rows of the official prototypes in the order of our nodes."""
    return torch.tensor([net._out_map[node] for node in sorted(net._out_map, key=lambda node: node.index)])


def leaves_of(net):
    """Parameters of the leaves from the left."""
    return torch.stack([leaf._dist_params for leaf in sorted(net.leaves, key=lambda leaf: leaf.index)])


def tree_of(net):
    """Our tree of four levels with the weights of an official one."""
    model = ProtoTreeModel(resnet18(), CLASSES, soft_tree.complete_tree(4), DEPTH)
    model.load_state_dict(
        {f"backbone.{name}": values for name, values in net._net.state_dict().items()}
        | {"add_on_layers.0.weight": net._add_on[0].weight}
        | {"prototype_vectors": net.prototype_layer.prototype_vectors[rows_of(net)], "leaves": leaves_of(net)}
        | {name: values for name, values in model.state_dict().items() if name.split(".")[0] in ("turns", "prototypes")}
    )
    model.assign()
    return model.eval()


@pytest.mark.parametrize(
    "fields",
    [
        [(0, 8), (8, 16), (16, 24), (24, 32)],
        [(0, 9), (1, 17), (9, 25), (17, 32)],
        [(0, 32)] * 4,
        [(0, 28), (0, 32), (0, 32), (4, 32)],
    ],
    ids=["apart", "cut off", "whole image", "some whole"],
)
def test_pixpnet(fields):
    images, labels = torch.randn(200, 3, 32, 32), (torch.arange(200) % CLASSES).sort().values
    slices = [[[(slice(*row), slice(*column))] for column in fields] for row in fields]
    backbone = SmallNet()
    backbone.out_channels = backbone.channels
    with official("PixPNet", "pixpnet/protonets/models/protonet.py") as module:
        from pixpnet.protonets.loss import ClusterLoss, SeparationLoss
        from pixpnet.protonets.push import push_prototypes

        sizes = CLASSES * PER_CLASS, DEPTH, 1, CLASSES
        net = settled(module.ProtoNet(backbone, "x", slices, *sizes, readout_type="proto", distance="cosine"))
        model = PixPNetModel(SmallNet(), CLASSES, PER_CLASS, DEPTH, 32).eval()
        model.backbone.load_state_dict(backbone.state_dict())
        model.prototype_vectors.data.copy_(net.prototype_vectors.data)
        for ours, theirs in ((0, net.add_on_layers.conv1), (2, net.add_on_layers.conv_last)):
            model.add_on_layers[ours].load_state_dict(theirs.state_dict())
        few, own = images[::40], labels[::40]
        learner = PixPNetLearner(model, PixPNet.Config(schedule=Schedule(phases=[])), Silent())
        with torch.no_grad():
            there, seen, terms = net(few), model.explain(few), learner(few, own, "joint")
            distances = model.distances(model.backbone(few))
            rows, columns = pixel_maps.kernel_windows(fields, fields, 32)
            pixels = {}
            maps = dict(zip(("max", "mean", "sum"), net.pixel_space_map(few[:1], there["distances"][:1]), strict=True))
            for join, theirs in maps.items():
                ours = pixel_maps.spread(seen.maps[:1], rows, columns, join)[0]
                # A pixel that no field covers is 0 / 0 there.
                pixels[join] = apart(ours.nan_to_num(0), theirs.nan_to_num(0))
            losses = {
                "cluster": apart(terms["cluster"], ClusterLoss()(there["min_distances"], own, net)),
                "separation": apart(terms["separation"], -SeparationLoss()(there["min_distances"], own, net)),
            }
        logits = apart(seen.logits, there["logits"])
        loader = zip(torch.arange(200).split(64), images.split(64), labels.split(64), strict=True)
        push_prototypes(list(loader), net, duplicate_filter="sample")
    learner.act("project", TensorSamples(images, labels, CLASSES))
    rows = apart(model.prototype_vectors, net.prototype_vectors)
    report("pixpnet", logits=logits, distances=apart(distances, there["distances"]), **losses, projection=rows)
    # The official kernel is in single precision.
    report("  pixels", 1e-5, **pixels)


def test_protopshare():
    images, labels = torch.randn(75, 3, 64, 64), torch.arange(75) % CLASSES
    with official("ProtoPShare", "model.py") as module:
        import proto_join

        net = settled(module.construct_PPNet("resnet18", False, 64, SHAPE, CLASSES, "log", "regular"))
        model = loaded("protopshare", ProtoPNetModel(resnet18(), CLASSES, PER_CLASS, DEPTH), net.state_dict())
        config = ProtoPShare.Config(merges=6, merge_on="first_batch", schedule=Schedule(phases=[]))
        ProtoPShareLearner(model, config, Silent()).act("merge", TensorSamples(images, labels, CLASSES))
        proto_join.preprocess_input_function = None
        last = torch.optim.Adam([{"params": net.last_layer.parameters()}])
        groups = [torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1)), net.prototype_vectors]
        joint = torch.optim.Adam([{"params": [one]} for one in groups])
        whole = SimpleNamespace(module=net, forward=net.forward)
        # One batch: of more, the released code counts the first alone.
        proto_join.join_prototypes_by_activations(whole, 0.1, [(images, labels)], joint, None, last, no_p=6)
        with torch.no_grad():
            logits, maps = net(images[:8])[0], net.distance_2_similarity(net.prototype_distances(images[:8]))
    left = model.prototypes.classes.any(1)
    assert torch.equal(model.prototypes.classes[left].to(net.prototype_class_identity), net.prototype_class_identity)
    with torch.no_grad():
        seen = model.explain(images[:8])
    report(
        f"protopshare, {int(left.sum())} prototypes left", logits=apart(seen.logits, logits),
        maps=apart(seen.maps[:, left], maps), weights=apart(model.last_layer.weight[:, left], net.last_layer.weight),
        vectors=apart(model.prototype_vectors[left], net.prototype_vectors),
    )  # fmt: skip
