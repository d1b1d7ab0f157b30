"""A store with something for each of the paper's tables, and with all that can be missing from one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.stores import METRICS, StoreMaker

CUB, CARS, IMAGENET = (5994, 5794), (276, 142), (1281167, 50000)
WHOLE = {"crop": "full", "size": 224, "coordinates": "truncated"}
AXIOMS: dict[str, dict[str, Any]] = {
    "sensitivity": {"version": "1", "parameters": {"images": 128, "tolerance": 0.1}},
    **{
        name: {"version": "1", "parameters": {"images": 128, "seed": 0, "tolerance": 1e-4}, "unit": ""}
        for name in ("completeness", "linearity", "symmetry")
    },
}
ACCURACY = {"accuracy": METRICS["accuracy"]}
TABLE_2 = {name: METRICS[name] for name in ("accuracy", "consistency", "stability")}


def scores(accuracy: float, consistency: float, stability: float) -> dict[str, float]:
    return {"accuracy": accuracy, "consistency": consistency, "stability": stability}


def on_cub(maker: StoreMaker, method: str, values: Mapping[str, float] | None = None, **more: Any) -> str:
    """A cell of table 2."""
    given = {"dataset": "cub", "backbone": "resnet34", "images": CUB, "recipe": "published", "digest": "c0b", **more}
    return maker.cell(method, values, **given)


def on_imagenet(maker: StoreMaker, method: str, accuracy: float | None = None, **more: Any) -> str:
    """A cell of tables 3 and 4."""
    shared = {"dataset": "imagenet", "images": IMAGENET, "protocol": WHOLE, "recipe": "published", "digest": "1000"}
    given = {"backbone": "resnet34", "metrics": ACCURACY, **shared, **more}
    return maker.cell(method, None if accuracy is None else {"accuracy": accuracy}, **given)


def paper_store(root: Path) -> StoreMaker:
    """Tables 1 to 4 of the paper in part, table 5 on other images, table 6 not at all."""
    maker = StoreMaker(root)
    table_2 = [
        on_cub(maker, "ours", scores(82.0, 62.0, 79.0), settings={"k": 3}),
        on_cub(maker, "ours", scores(82.4, 64.0, 80.0), settings={"k": 3}, seed=1),
        on_cub(maker, "ours", scores(81.0, 48.0, 57.1), settings={"k": 3}, backbone="vgg19"),
        on_cub(maker, "protopnet", scores(79.0, 15.0, 54.1)),
        on_cub(maker, "tesnet", failure=("oom", "tried to allocate 15.3 GiB")),
        on_cub(maker, "deformable", failure=("failed", "loss became nan in phase 'joint'")),
        on_cub(maker, "protopool"),
        on_cub(maker, "blackbox", scores(82.2, 40.0, 70.0), role="reference"),
    ]
    refused = {"accuracy": "constant predicts no class"}
    control = {"consistency": 62.0, "stability": 100.0}
    table_2.append(on_cub(maker, "constant", control, role="control", backbone=None, not_applicable=refused))
    maker.invocation(table_2, "20260301-090000-000", "table2")

    def axioms(values: tuple[float, ...]) -> dict[str, float]:
        return dict(zip(AXIOMS, values, strict=False))

    apart = {"symmetry": "its prototypes have parts that lie apart"}
    maker.invocation(
        [
            on_cub(maker, "ours", axioms((0.0, 2.1e-7, 3e-8, 0.0)), metrics=AXIOMS, settings={"k": 3}),
            on_cub(maker, "protopnet", axioms((97.9, 4.25, 0.31, 0.0)), metrics=AXIOMS),
            on_cub(maker, "deformable", axioms((88.5, 3.5, 0.2)), metrics=AXIOMS, not_applicable=apart),
        ],
        "20260302-090000-000",
        "table1",
    )
    table_3 = [
        on_imagenet(maker, "ours", 73.3, settings={"k": 3, "refinement": "lbfgs"}),
        on_imagenet(maker, "protopnet", 65.0),
        on_imagenet(maker, "tesnet", failure=("oom", "tried to allocate 15.3 GiB, with one image at a time")),
        on_imagenet(maker, "blackbox", 73.3, role="reference"),
    ]
    maker.invocation(table_3, "20260303-090000-000", "table3")
    table_4 = [
        on_imagenet(
            maker,
            "ours",
            accuracy,
            label=f"ours (k={k}, refinement={refinement})",
            settings={"k": k, "refinement": refinement},
        )
        for k, refinement, accuracy in ((3, "none", 17.0), (5, "none", 20.1))
    ]
    # With k = 3 refined prototypes are those of table 3.
    maker.invocation([*table_4, table_3[0], table_3[-1]], "20260304-090000-000", "table4")
    small = {"dataset": "cars", "images": CARS, "protocol": WHOLE, "recipe": "small", "backbone": "mobilenet_v2"}
    maker.invocation(
        [
            maker.cell("ours", {"accuracy": 84.5}, metrics=ACCURACY, settings={"k": 3}, **small),
            maker.cell("deformable", {"accuracy": 71.0}, metrics=ACCURACY, **small),
        ],
        "20260305-090000-000",
        "table5_small",
    )
    maker.store.record_scale("20260306-090000-000", scale_record())
    return maker


def scale_record() -> dict[str, Any]:
    """What ``bench scale`` writes down."""

    def fits(parameters: float, peak: float, **more: Any) -> dict[str, Any]:
        return {"status": "ok", "parameters": parameters, "peak_bytes": peak * 2**30, **more}

    alone = {"larger_batch": {"batch_size": 2, "reason": "tried to allocate 9.0 GiB"}}
    out = {"status": "oom", "reason": "tried to allocate 15.3 GiB of 6.0 GiB", "overrun": None}
    return {
        "backbone": "resnet34",
        "size": 224,
        "batch_size": 2,
        "precision": "fp32",
        "memory_limit_bytes": 6 * 2**30,
        "memory_limit_why": "as asked for",
        "device": "cpu",
        "hardware": "Some CPU, 2 cores",
        "threads": 2,
        "load": 0.5,
        "partbench": {"version": "0.1.0", "git": "abc123"},
        "rows": [
            {"method": "protopnet", "form": "", "classes": 200, "training": out, "inference": out},
            {
                "method": "ours", "form": "", "classes": 1000, "training": fits(21.8e6, 0.5),
                "inference": fits(23.3e6, 0.125), "decomposition": {"status": "ok", "peak_bytes": 2**29},
            },
            {
                "method": "tesnet", "form": "", "classes": 1000, "training": fits(32e6, 0.75, **alone),
                "inference": fits(32e6, 0.25),
            },
            {
                "method": "tesnet", "form": "literal", "classes": 1000, "training": out, "inference": fits(32e6, 0.25),
            },
        ],
    }  # fmt: skip
