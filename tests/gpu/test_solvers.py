"""Every solver of the decomposition on a CUDA device: the prototypes of the CPU."""

import pytest
import torch

from bench.diagnostics.synthetic import class_features
from bench.posthoc.decompose_class import DecompositionConfig, decompose_classes
from bench.runner.memory_limit import OomRetry
from tests.support.device_work import decomposition, pretended
from tests.support.samples import Silent

pytestmark = pytest.mark.gpu
COUNTS, GRID = (24, 16, 20), (2, 2)
SETTINGS = [
    *({"nmf_solver": solver, "nmf_init": init} for solver in ("mu", "hals") for init in ("random", "nndsvd")),
    {"factorisation": "semi"},
    {"factorisation": "convex"},
    *({"refinement": name} for name in ("none", "naive", "contrast")),
    {"refinement": "nelder-mead", "space": "span"},
    *({"norm": norm, "norm_over": over} for norm in ("l2", "minmax", "zscore") for over in ("class", "image")),
    {"space": "full"},
    {"scaling": "nonnegative"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_prototypes_of_the_cpu(settings):
    # Few updates: later ones amplify the rounding by which the devices differ.
    config = DecompositionConfig(k=2, nmf_max_iter=20, **settings)
    drawn = [class_features(label, count // 4, 4, 12, seed=0) for label, count in enumerate(COUNTS)]
    features = torch.zeros(len(COUNTS), max(COUNTS), 12)
    for number, (rows, _) in enumerate(drawn):
        features[number, : len(rows)] = rows
    found = {}
    for device in ("cpu", "cuda:0"):
        inputs = (features, torch.tensor(COUNTS), torch.stack([row for _, row in drawn]))
        on_device = [tensor.to(device) for tensor in inputs]
        with torch.no_grad():
            found[device] = decompose_classes(config, *on_device, GRID, 0, [0, 1, 2])
    (here, numbers), (there, others) = found["cpu"], found["cuda:0"]
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here, rtol=1e-2, atol=1e-3)
    for name, values in numbers.items():
        torch.testing.assert_close(others[name].cpu(), values, rtol=1e-2, atol=1e-3, msg=name)


def test_the_chunks_of_a_gpu_grow_with_its_memory(tmp_path):
    def part(device, limit=None):
        return OomRetry(torch.device(device), limit, tmp_path / "retry.json", {}, Silent()).part

    total = torch.cuda.get_device_properties(0).total_memory
    assert (part("cuda:0"), part("cuda:0", 2**31), part("cpu")) == (total // 4, 2**29, 2**30)


@pytest.mark.skipif(not pretended(), reason="kernels are counted by the pretended device alone")
def test_two_hundred_classes_at_once_take_a_tenth_of_the_kernels():
    # Of the 3,481 that a class took in chunks of 22, as many as 1 GiB holds of ResNet-50's features of CUB.
    whole = decomposition(200)
    assert whole["kernels"] <= 348
    assert whole["waits"] < 10  # those of trials of L-BFGS, for all classes of a chunk
