"""Catalogue of all built-in methods, data sets, backbones, metrics and official checkpoints: to add one, add a line.

A line names a class as ``module:attribute``. Nothing is imported before it is used, so listing is instant and a broken
plugin breaks only itself.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, Literal

from bench.core.source_code import Code

Role = Literal["method", "reference", "control"]
Measured = Literal["always", "shared", "asked"]


@dataclass(frozen=True)
class Entry:
    """Line of a catalogue.

    Attributes:
        target: class or factory, as ``module:attribute``.
        summary: description in a line.
        role: for methods: a competing method, a reference to compare with, or a content-free control.
        facts: names and values that the listing shows beside the summary.
        preset: settings that make this entry of a class with several entries; ``--set`` may change the others.
        measured: for metrics, when a run that names no metrics measures it: always, if a method shares prototypes among
            classes, or only on request (by its name, its group, or ``all``); for controls, whether every run has them.
        group: for metrics, the name that selects the whole group in ``--metrics``.
        chance: for metrics, whether the score of a content-free control is the chance level of methods. It is not for
            numbers that do not depend on the map's content, such as cost: a control is always cheap.
        code: source code of the plugin file that registered it; ``None`` for built-in and installed ones.
        distribution: name and version of the installed distribution that provides it; empty for others.
        twin: for methods: a reference whose row tables print for both where all of their numbers are equal.
        explains: for methods: whether it explains the black box and is no part-prototype network: the paper's tables
            have none.
        argument: what the target is called with to give the class or factory, for names that no catalogue can list.
    """

    target: str
    summary: str
    role: Role = "method"
    facts: tuple[tuple[str, str], ...] = ()
    preset: tuple[tuple[str, Any], ...] = ()
    measured: Measured = "always"
    group: str = ""
    chance: bool = True
    code: Code | None = None
    distribution: str = ""
    twin: str = ""
    explains: bool = False
    argument: str = ""

    def load(self) -> Any:
        """Import the module and return the attribute."""
        module, _, attribute = self.target.partition(":")
        loaded = getattr(importlib.import_module(module), attribute)
        return loaded(self.argument) if self.argument else loaded


# Variants of a metric are names of their own, with a preset, so that two definitions never meet in one column.
_BIRDS = (("provides", "boxes, key-points, masks"),)
_BOXES = (("provides", "boxes"),)
_CONSISTENCY, _STABILITY = "consistency:Consistency", "stability:Stability"


def _metric(
    target: str, summary: str, group: str, measured: Measured = "asked", chance: bool = True, **preset: Any
) -> Entry:
    when = {"always": "in every run", "shared": "if prototypes are shared", "asked": "on request"}[measured]
    facts = (("group", group), ("measured", when))
    settings = tuple(preset.items())
    return Entry(
        f"metrics.{target}", summary, facts=facts, preset=settings, measured=measured, group=group, chance=chance
    )


def _network(target: str, summary: str) -> Entry:
    return Entry(f"baselines.{target}", summary)


def _explanation(target: str, summary: str, twin: str = "") -> Entry:
    return Entry(f"baselines.{target}", summary, twin=twin, explains=True)


CATALOGUE: dict[str, dict[str, Entry]] = {
    "methods": {
        "ours": Entry(
            "bench.posthoc.method:PostHocPPN", "post-hoc decomposition of a trained classifier (Tan et al. 2024)"
        ),
        "ours-contrast": Entry(
            "bench.posthoc.method:PostHocPPNContrast",
            "exact too, from prototypes that peak at one recurring place each",
        ),
        "ours-places": Entry(
            "bench.posthoc.method:PostHocPPNPlaces", "exact too, from prototypes at places apart from each other"
        ),
        "protopnet": _network("protopnet:ProtoPNet", "this looks like that (Chen et al. 2019)"),
        "tesnet": _network("tesnet:TesNet", "a basis of prototypes for each class (Wang et al. 2021)"),
        "protopool": _network("protopool:ProtoPool", "prototypes shared by classes (Rymarczyk et al. 2022)"),
        "deformable": _network(
            "deformable:DeformableProtoPNet", "prototypes of four moving parts (Donnelly et al. 2022)"
        ),
        "cosine-head": _network(
            "cosine_head:CosineHead", "this project's control: cosines of raw features with clustered prototypes"
        ),
        "evalprotopnet": _network(
            "evalprotopnet:EvalProtoPNet", "weighted scores, aligned features (Huang et al. 2023)"
        ),
        "st-protopnet": _network(
            "st_protopnet:STProtoPNet", "prototypes near the boundary and far from it (Wang et al. 2023)"
        ),
        "support-st": _network(
            "st_protopnet:SupportST", "prototypes near the boundary between classes (Wang et al. 2023)"
        ),
        "protoconcepts": _network(
            "protoconcepts:ProtoConcepts", "prototypes that are balls of many patches (Ma et al. 2023)"
        ),
        "prototree": _network("prototree:ProtoTree", "a decision tree of prototypes (Nauta et al. 2021)"),
        "protopshare": _network(
            "protopshare:ProtoPShare", "ProtoPNet's prototypes, merged across classes (Rymarczyk et al. 2021)"
        ),
        "pixpnet": _network("pixpnet:PixPNet", "maps grounded in receptive fields (Carmichael et al. 2024)"),
        "pipnet": _network("pipnet:PIPNet", "shared prototypes from two views of an image (Nauta et al. 2023)"),
        "epic": _explanation("epic:EPIC", "an invertible mix of channels, its purest shown (AAAI 2026)"),
        "dff": _explanation("dff:DFF", "codes of concepts, and a remainder (Collins et al. 2018)"),
        "craft": _explanation("craft:CRAFT", "the same from crops, ranked by importance (Fel et al. 2023)"),
        "ibd": _explanation("ibd:IBD", "rows over concepts of all classes, and a residual (Zhou et al. 2018)"),
        "ibd-keypoints": _explanation("ibd:IBDKeypoints", "the same over classifiers of the annotated parts"),
        "gradcam": _explanation(
            "gradcam:GradCAM", "attribution by mean gradients (Selvaraju et al. 2017)", twin="blackbox"
        ),
        "hirescam": _explanation(
            "gradcam:HiResCAM", "attribution by each cell's gradients (Draelos and Carin 2020)", twin="blackbox"
        ),
        "blackbox": Entry(
            "bench.posthoc.method:BlackBox",
            "the trained classifier itself; its class map is its one prototype",
            role="reference",
        ),
        "constant": Entry("metrics.controls:Constant", "one pixel, chosen on the training split", role="control"),
        "center": Entry("metrics.controls:Center", "the middle of the image", role="control"),
        "random": Entry("metrics.controls:Random", "a random location in every image", role="control"),
        "random_fixed": Entry(
            "metrics.controls:Random",
            "a random location for every prototype",
            role="control",
            preset=(("per", "prototype"),),
        ),
        **{
            name: Entry(
                "bench.posthoc.uninformed:Uninformed",
                f"ours on {what}",
                role="control",
                preset=(("kind", name),),
                measured="asked",
            )
            for name, what in {
                "untrained": "a network with random weights",
                "random_head": "the black box with its head's weights in random order",
                "shuffled_labels": "the black box's features with a head fitted to shuffled labels",
            }.items()
        },
    },
    "datasets": {
        "demo": Entry("bench.data.cub:Cub", "birds drawn by the project itself, in the CUB layout", facts=_BIRDS),
        "cub": Entry("bench.data.cub:Cub", "CUB-200-2011: 200 bird species", facts=_BIRDS),
        "cars": Entry("bench.data.cars:Cars", "Stanford Cars: 196 car models", facts=_BOXES),
        "dogs": Entry(
            "bench.data.dogs:Dogs", "Stanford Dogs: 120 breeds", facts=(("provides", "boxes, with Annotation"),)
        ),
        "imagenet": Entry("bench.data.imagenet:ImageNet", "ImageNet, 1000 classes; tested on its validation images"),
        "folder": Entry(
            "bench.data.image_folder:ImageFolder",
            "your own images, a folder for each class",
            facts=(("provides", "boxes, key-points, by annotations.csv"),),
        ),
    },
    "backbones": {
        "tiny": Entry("bench.models.tiny:TinyNet", "a small network for the demo birds, from random weights"),
        **{
            name: Entry(f"bench.models.torchvision:{name}", f"{title}, ImageNet weights from torchvision")
            for name, title in {
                "resnet18": "ResNet-18",
                "resnet34": "ResNet-34",
                "resnet50": "ResNet-50",
                "resnet152": "ResNet-152",
                "vgg19": "VGG-19",
                "densenet121": "DenseNet-121",
                "densenet161": "DenseNet-161",
                "mobilenet_v2": "MobileNetV2",
                "squeezenet1_1": "SqueezeNet 1.1",
            }.items()
        },
        "vit_b_32": Entry("bench.models.vit:vit_b_32", "ViT-B/32, patch tokens, ImageNet weights from torchvision"),
        "vit_b_32_augreg": Entry(
            "bench.models.vit:vit_b_32_augreg", "ViT-B/32, patch tokens, timm's weights, to be passed"
        ),
        "coc_tiny": Entry(
            "bench.models.context_cluster:coc_tiny", "Context Cluster tiny (Ma et al. 2023), weights to be passed"
        ),
        "coc_tiny2": Entry(
            "bench.models.context_cluster:coc_tiny2", "Context Cluster tiny, 7x7 regions, weights to be passed"
        ),
        "coc_tiny_plain": Entry(
            "bench.models.context_cluster:coc_tiny_plain", "Context Cluster tiny, no regions, weights to be passed"
        ),
    },
    "metrics": {
        "accuracy": _metric("accuracy:Accuracy", "top-1 accuracy on the test split", "prediction", "always"),
        "consistency": _metric(
            _CONSISTENCY, "prototypes that hit the same part in 80 % of images (version 2)", "keypoints", "always"
        ),
        "consistency_pooled": _metric(
            _CONSISTENCY, "the same, a shared prototype's classes together", "keypoints", "shared", pooled=True
        ),
        "consistency_controlled": _metric(
            "controlled:ControlledConsistency",
            "prototypes that are consistent by a part that the class's constant location hits less often",
            "keypoints",
            "always",
        ),
        "consistency_v1": _metric(_CONSISTENCY, "version 1, equal to version 2", "keypoints", variant="v1"),
        "consistency_protopformer": _metric(
            _CONSISTENCY, "ProtoPFormer's: on whole images", "keypoints", variant="protopformer"
        ),
        "consistency_pixpnet": _metric(
            _CONSISTENCY, "PixPNet's: whole images, peaks of cells, merged sides", "keypoints", variant="pixpnet"
        ),
        "stability": _metric(_STABILITY, "images whose part hits survive noise (version 2)", "keypoints", "always"),
        "stability_pooled": _metric(
            _STABILITY, "the same, a shared prototype's classes together", "keypoints", "shared", pooled=True
        ),
        "stability_v1": _metric(_STABILITY, "version 1: unclipped noise, hits only counted", "keypoints", variant="v1"),
        "stability_pixpnet": _metric(
            _STABILITY, "PixPNet's: whole images, unclipped noise, merged sides", "keypoints", variant="pixpnet"
        ),
        "sensitivity": _metric(
            "axioms:Sensitivity", "cells shown though nothing depends on them, or the reverse", "axioms"
        ),
        "sensitivity_mean": _metric(
            "axioms:Sensitivity", "the same, cells replaced by the mean feature", "axioms", baseline="mean"
        ),
        "completeness": _metric(
            "axioms:Completeness", "how far displayed attributions are from summing to the logit", "axioms"
        ),
        "linearity": _metric("axioms:Linearity", "how far the head is from linear, and its attribution", "axioms"),
        "symmetry": _metric("axioms:Symmetry", "whether cells of the same role are shown alike", "axioms"),
        **{
            f"{axiom.lower()}_{reading}": _metric(
                f"axioms:{axiom}", f"{axiom.lower()} of {what}", "axioms", reading=reading
            )
            for reading, what in {"contribution": "exact contributions", "shapley": "the cells' Shapley values"}.items()
            for axiom in ("Sensitivity", "Completeness", "Symmetry")
        },
        "calibration": _metric("calibration:Calibration", "expected calibration error of the softmax", "prediction"),
        "fidelity": _metric("fidelity:Fidelity", "predictions equal to the black box's", "prediction"),
        "reconstruction": _metric(
            "reconstruction:Reconstruction", "accuracy of what the shown prototypes carry alone", "prediction"
        ),
        "cost": _metric(
            "cost:Cost", "milliseconds to explain an image, parameters, seconds of the fit", "cost", chance=False
        ),
        "cancellation": _metric(
            "cancellation:Cancellation", "whether a class's prototypes cancel each other", "prototypes"
        ),
        # Without a chance level: random maps always differ, and no largest distance is perfect.
        "duplication": _metric("duplication:Duplication", "prototypes that repeat another", "prototypes", chance=False),
        "contrastivity": _metric(
            "contrastivity:Contrastivity",
            "distance between the peaks of a class's prototypes",
            "prototypes",
            chance=False,
        ),
        "distinctiveness": _metric(
            "distinctiveness:Distinctiveness", "how little the regions of a class's prototypes overlap", "prototypes"
        ),
        "distinctiveness_official": _metric(
            "distinctiveness:Distinctiveness",
            "as ProtoNonParam's code: five maps, pooled 2 x 2",
            "prototypes",
            variant="official",
            top=5,
        ),
        "compactness": _metric("compactness:Compactness", "prototypes that make up 90 % of a decision", "prototypes"),
        "explanation_size": _metric(
            "explanation_size:ExplanationSize",
            "prototypes that count for an image and for any, zero weights (PIP-Net)",
            "prototypes",
        ),
        "comprehensiveness": _metric(
            "comprehensiveness:Comprehensiveness",
            "how well a class's prototypes together cover the object's mask",
            "masks",
        ),
        "comprehensiveness_official": _metric(
            "comprehensiveness:Comprehensiveness",
            "as ProtoNonParam's code: five maps, pooled 2 x 2",
            "masks",
            variant="official",
            top=5,
        ),
        "mask_energy": _metric(
            "mask_scores:MaskEnergy", "share of the class map on the object's mask, pointing game", "masks"
        ),
        "mask_iou": _metric("mask_scores:MaskIou", "the class map's high region against the mask, background", "masks"),
        "mask_oirr": _metric(
            "mask_scores:MaskOirr", "relevance outside the object over that on it (ST-ProtoPNet)", "masks"
        ),
        "coverage": _metric("coverage:Coverage", "different parts that a class's prototypes hit consistently", "parts"),
        "purity": _metric(
            "purity:Purity", "one part in the patches where a prototype scores highest (PIP-Net)", "parts"
        ),
        "part_agreement": _metric(
            "agreement:PartAgreement", "prototype and part at key-points, mutual information", "parts"
        ),
        "keypoint_regression": _metric(
            "regression:KeypointRegression", "how well the prototypes' locations predict those of parts", "parts"
        ),
        "pointing_box": _metric(
            "localisation:PointingBox", "maps that peak in the object's box, on whole images", "localisation"
        ),
        "deletion": _metric("deletion:Deletion", "taking away the pixels shown, against chance", "faithfulness"),
        "insertion": _metric(
            "deletion:Deletion", "putting back the pixels shown, against chance", "faithfulness", mode="insert"
        ),
        "sufficiency": _metric(
            "sufficiency:Sufficiency",
            "whether the most contributing prototype alone keeps a prediction",
            "faithfulness",
        ),
        "necessity": _metric(
            "sufficiency:Sufficiency", "whether a prediction changes without it", "faithfulness", mode="without"
        ),
        "misalignment": _metric(
            "misalignment:Misalignment", "maps that move when pixels elsewhere are attacked", "robustness"
        ),
        "perturbation": _metric(
            "perturbation:Perturbation", "part hits that survive colours, blur and JPEG", "robustness"
        ),
    },
    "checkpoints": {
        name: Entry("baselines.official_checkpoints:OfficialCheckpoints", summary)
        for name, summary in {
            "protopnet": "the pickled PPNet of cfchen-duke/ProtoPNet",
            "tesnet": "the pickled TESNet of JackeyWang96/TesNet",
            "protopool": "best_model*.pth of gmum/ProtoPool",
            "deformable": "the pickled PPNet of jdonnelly36/Deformable-ProtoPNet",
            "evalprotopnet": "save_model.pth of hqhQAQ/EvalProtoPNet",
            "st-protopnet": "the state dict of cwangrun/ST-ProtoPNet",
            "protoconcepts": "models of Henrymachiyu/This-looks-like-those_ProtoConcepts",
            "prototree": "model.pth of M-Nauta/ProtoTree",
            "protopshare": "the pickled PPNet of gmum/ProtoPShare, after merging",
            "pixpnet": "a Lightning checkpoint of merlresearch/PixPNet",
            "pipnet": "net_trained_last of M-Nauta/PIPNet",
        }.items()
    },
}
