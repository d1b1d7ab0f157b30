"""Speed of the decomposition, compared with the published pipeline on the same synthetic features in the same run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contract import RequestError
from bench.core.memory import PeakMemory
from bench.diagnostics import reference_pipeline
from bench.diagnostics.measurements import conditions, copy_bandwidth, describe, measurement_table, timed
from bench.diagnostics.synthetic import class_features
from bench.posthoc.decompose_class import DecompositionConfig, decompose_classes, factorise_classes
from bench.posthoc.scaling import require_cvxpy
from bench.report.table import Table

# Settings of the literal published pipeline: its objective and the start of its search.
COMPARABLE: dict[str, Any] = {"norm": "l2", "start": "equal"}

# Settings of ``ours`` that are measured as the third pipeline; the defaults are measured on the sample.
FAST: dict[str, Any] = {"nmf_solver": "hals", "nmf_init": "nndsvd", "refinement": "lbfgs", "space": "span"}

# Reads of F by one update: one for `F P^T` and one, with the new E, for `E^T F`.
_READS = 2


def measure(
    classes: int = 200,
    images: int = 30,
    hw: int = 49,
    features: int = 512,
    k: int = 3,
    device: str | torch.device = "cpu",
    *,
    sample: int = 5,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    sklearn: bool = True,
    memory_limit: int = 2**29,
    note: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Time the published pipeline, the same with scikit-learn's NMF as its first step, and ours.

    Features have ``images`` x ``hw`` locations in a class. Ours decomposes all classes on the device, as many at a time
    as the limit in bytes allows; the others run on the CPU, and their time for ``sample`` classes is extrapolated.

    Returns:
        ``ratio``, ``objective_ratio``, ``nmf_error_ratio``, ``roofline_share``, ``peak_bytes`` and their
        ingredients, ready for JSON.
    """
    device = torch.device(device)
    sizes = {"classes": classes, "images": images, "hw": hw, "features": features, "k": k}
    if min(*sizes.values(), sample) < 1:
        raise RequestError("speed decompose: every size must be at least 1")
    if k > min(images * hw, features):
        raise RequestError(f"speed decompose: --k {k} exceeds the rank of the features, {min(images * hw, features)}")
    config = DecompositionConfig(k=k, **{**COMPARABLE, **(FAST if settings is None else settings)})
    if (config.norm, config.norm_over, config.factorisation) != ("l2", "class", "nmf") or config.refinement == "none":
        raise RequestError("speed decompose compares objectives: norm=l2, norm_over=class, and a refinement are needed")
    require_cvxpy()
    factors = _sklearn() if sklearn else None
    chosen = np.unique(np.linspace(0, classes - 1, min(sample, classes)).round().astype(int)).tolist()
    drawn = [class_features(label, images, hw, features, seed) for label in chosen]
    machine = conditions(device)
    note(f"published pipeline on {len(chosen)} of {classes} classes")
    slow = {"reference": _slow(drawn, k, seed, None)}
    if factors is not None:
        note(f"scikit-learn as its first step on {len(chosen)} of {classes} classes")
        slow["sklearn"] = _slow(drawn, k, seed, factors)
    note(f"ours on {device}")
    ours = _ours(config, sizes, device, seed, memory_limit, chosen)
    note("ours with its other defaults")
    default = _ours(DecompositionConfig(k=k, **COMPARABLE), sizes, device, seed, memory_limit, chosen, only=chosen)
    for pipeline in slow.values():
        pipeline["extrapolated"] = len(chosen) < classes
        pipeline["seconds"] = pipeline["seconds_per_class"] * classes
    published = slow["reference"]
    return {
        "ratio": published["seconds_per_class"] / ours["seconds_per_class"],
        "objective_ratio": ours["objective"] / published["objective"],
        "nmf_error_ratio": ours["nmf_error"] / published["nmf_error"],
        "roofline_share": ours["roofline_share"],
        "peak_bytes": ours["peak_bytes"],
        "sizes": sizes,
        **machine,
        "settings": config.model_dump(),
        **slow,
        "ours": ours,
        "defaults": default,
    }


def _slow(drawn: list[tuple[Tensor, Tensor]], k: int, seed: int, factors: Callable[..., Any] | None) -> dict[str, Any]:
    import cvxpy  # noqa: F401  # loaded before the clock starts

    reference_pipeline.scale(np.ones(4), np.eye(2, 4))
    decomposed = []
    threads = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, that 200 iterations were not enough
        for F, v in drawn:

            def run(threads: int | None, F: Tensor = F, v: Tensor = v) -> reference_pipeline.Decomposed:
                with _blas(threads):
                    return reference_pipeline.decompose(F.numpy(), v.numpy(), k, seed, factors)

            if threads is None:
                # Small products on many cores may wait longer than they work: the pipeline gets the faster of both.
                cost = {count: sum(run(count).seconds.values()) for count in {1, torch.get_num_threads()}}
                threads = min(cost, key=cost.__getitem__)
            decomposed.append((F, run(threads)))
    steps = {
        f"{name}_seconds_per_class": _mean(result.seconds[name] for _, result in decomposed)
        for name in ("nmf", "scaling", "refinement")
    }
    return {
        "classes_measured": len(decomposed),
        "threads": threads,
        "seconds_per_class": sum(steps.values()),
        **steps,
        "nmf_error": _mean(result.error / float(F.norm()) for F, result in decomposed),
        "objective": _mean(result.objective for _, result in decomposed),
    }


def _ours(
    config: DecompositionConfig,
    sizes: dict[str, int],
    device: torch.device,
    seed: int,
    memory_limit: int,
    sample: list[int],
    only: list[int] | None = None,
) -> dict[str, Any]:
    """Time the decomposition of all classes, or ``only`` some, in chunks; average the errors of the sample."""
    shape = (sizes["images"], sizes["hw"], sizes["features"])
    bytes_per_class = 4 * int(np.prod(shape))
    wanted = list(range(sizes["classes"])) if only is None else only
    size = max(1, memory_limit // bytes_per_class)
    seconds = nmf_seconds = 0.0
    updates = 0
    errors, objectives = [], []
    with PeakMemory(device) as peak:
        decompose_classes(
            config, *_stacked(shape, seed, wanted[:1], device), (1, sizes["hw"]), seed, wanted[:1]
        )  # warm up
        for begin in range(0, len(wanted), size):
            chunk = wanted[begin : begin + size]
            F, rows, v = _stacked(shape, seed, chunk, device)
            (_, numbers), took = timed(device, decompose_classes, config, F, rows, v, (1, sizes["hw"]), seed, chunk)
            seconds += took
            # Again alone: the share of the factorisation, for the roofline.
            factors, took = timed(device, factorise_classes, config, F, rows, seed, chunk)
            nmf_seconds += took
            updates += int(factors.updates.sum())
            for position, label in enumerate(chunk):
                if label in sample:
                    errors.append(float(numbers["nmf_relative_error"][position]))
                    objectives.append(float(numbers["objective"][position]))
            del F, rows, v, numbers, factors  # the next chunk takes their place
    read = _READS * updates * bytes_per_class
    bandwidth = copy_bandwidth(device)
    return {
        "classes_measured": len(wanted),
        "seconds": seconds,
        "seconds_per_class": seconds / len(wanted),
        "nmf_seconds_per_class": nmf_seconds / len(wanted),
        "nmf_updates_per_class": updates / len(wanted),
        "nmf_error": _mean(errors),
        "objective": _mean(objectives),
        "peak_bytes": peak.growth,
        "nmf_bytes_read": read,
        "copy_bandwidth": bandwidth,
        # 1: the factorisation is as fast as memory delivers F.
        "roofline_share": read / bandwidth / nmf_seconds,
    }


def _sklearn() -> Callable[[Any, int, int], tuple[Any, Any]]:
    try:
        from sklearn.decomposition import NMF
    except ImportError as error:
        raise RequestError(
            "speed decompose: scikit-learn is not installed (pip install scikit-learn), or leave it out (--no-sklearn)"
        ) from error

    def factors(F: Any, k: int, seed: int) -> tuple[Any, Any]:
        model = NMF(n_components=k, max_iter=200, tol=1e-4, random_state=seed)
        return model.fit_transform(F), model.components_

    factors(np.random.default_rng(0).random((4, 4)), 2, 0)
    return factors


def _blas(threads: int | None) -> Any:
    """Limit the threads of NumPy and SciPy, if threadpoolctl (a dependency of scikit-learn) is installed."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return nullcontext()
    return threadpool_limits(threads)


def _stacked(
    shape: tuple[int, int, int], seed: int, classes: list[int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Stack features of classes ``(B, M, D)``, their numbers of rows ``(B,)`` and the classifier's rows ``(B, D)``."""
    F = torch.empty(len(classes), shape[0] * shape[1], shape[2], device=device)
    v = torch.empty(len(classes), shape[2], device=device)
    for b, label in enumerate(classes):
        F[b], v[b] = (part.to(device) for part in class_features(label, *shape, seed))
    return F, torch.full((len(F),), F.shape[1], device=device), v


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def table(result: Mapping[str, Any]) -> Table:
    """Lay out the result of :func:`measure` as a table with notes."""
    sizes, ours = result["sizes"], result["ours"]
    above = [
        "{classes} classes of {images} images, {hw} locations, {features} channels; k = {k}".format(**sizes),
        f"ours {describe(result)[0]}; the others on the CPU",
        *describe(result)[1:],
    ]
    names = {
        "reference": "published (NumPy, cvxpy, SciPy)",
        "sklearn": "scikit-learn NMF first",
        "defaults": "ours, other defaults",
        "ours": "ours, " + ", ".join(dict.fromkeys(str(result["settings"][name]) for name in FAST)),
    }
    rows = []
    for name, title in names.items():
        if name in result:
            pipeline = result[name]
            each = pipeline["seconds_per_class"]
            # A star marks times that were measured on some classes and extrapolated to all.
            mark = "*" if pipeline["classes_measured"] < sizes["classes"] else ""
            rows.append(
                {
                    "pipeline": title,
                    "s/class": f"{each:.4f}",
                    "NMF s": f"{pipeline['nmf_seconds_per_class']:.4f}",
                    "NMF error": f"{pipeline['nmf_error']:.5f}",
                    "equation 6": f"{pipeline['objective']:.4f}",
                    "all, s": f"{each * sizes['classes']:.1f}{mark}",
                    "ratio": f"{result['reference']['seconds_per_class'] / each:.1f}",
                }
            )
    notes = []
    if result["reference"]["extrapolated"]:
        count = result["reference"]["classes_measured"]
        notes.append(f"* extrapolated from {count} classes; errors and objectives are means over those, for all rows")
    notes += [
        f"objective ratio {result['objective_ratio']:.3f}, NMF error ratio {result['nmf_error_ratio']:.4f}",
        f"peak memory of ours {result['peak_bytes'] / 2**20:.0f} MiB, features included",
        f"NMF reads {ours['nmf_bytes_read'] / 2**30:.2f} GiB ({ours['nmf_updates_per_class']:.1f} updates per class, "
        f"two reads each); a copy moves {ours['copy_bandwidth'] / 1e9:.1f} GB/s: "
        f"{result['roofline_share']:.2f} of the roofline",
    ]
    return measurement_table("speed of the decomposition", above, tuple(rows[0]), rows, notes)
