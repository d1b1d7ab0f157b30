"""Small classifiers, images for them, and what is promised of every decomposition."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench.posthoc.decompose_class import DecompositionConfig

C = 5
QUICK = DecompositionConfig(nmf_max_iter=20, refinement="naive")


def net(channels=8, classes=C, last=None, seed=0, norm=None):
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, channels, 3, stride=4), last or nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *([norm] if norm else []), nn.Linear(channels, classes)]
    return nn.Sequential(*body, *head)


def data_parallel(network):
    """The network wrapped as for several GPUs, where it was: beside a GPU the wrapper moves it there."""
    device = next(network.parameters()).device
    return nn.DataParallel(network).to(device)


def drawn(model, seed=0):
    """Weights such that norms do something and no head is zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm) and module.weight is not None:
                module.weight.copy_(1 + 0.3 * torch.randn(module.weight.shape, generator=generator))
                if module.bias is not None:
                    module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
            if isinstance(module, nn.Linear) and name.split(".")[-1] in ("head", "fc", "classifier"):
                module.weight.copy_(0.1 * torch.randn(module.weight.shape, generator=generator))
    return model.eval()


def images(classes=C, per_class=4, seed=0, size=18):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    x = torch.randn(len(labels), 3, size, size, generator=generator) + labels[:, None, None, None] / classes
    return x, labels


def loader(x, labels, batch_size=6):
    return DataLoader(TensorDataset(x, labels), batch_size)


def check(model, classifier, x, rtol=1e-4):
    """Everything that is promised of the result."""
    with torch.no_grad():
        expected = classifier(x)
        assert torch.equal(model(x), expected)
        seen = model.explain(x)
        assert torch.equal(seen.logits, expected)
        k = model.k
        total = seen.scores.unflatten(1, (-1, k)).sum(2) + model.bias.float()
        scale = expected.float().abs().max() + seen.maps.abs().max() * k
        assert (total - expected.float()).abs().max() <= rtol * scale
        assert (total.argmax(1) == expected.argmax(1)).all() or expected.dtype == torch.bfloat16
        own = expected.argmax(1)
        few = model.explain(x, own)
        torch.testing.assert_close(few.maps, model.pick(seen.maps, few.indices), rtol=1e-3, atol=1e-3 * float(scale))
        features = model.backbone(x)
        attribution = model.attribute(features, own)
        logit = attribution.sum((1, 2)) + model.bias[own].float()
        assert (logit - expected.float().amax(1)).abs().max() <= rtol * scale
        assert (model.logits(features) - expected).abs().max() <= rtol * scale
        rows, _ = model.backbone.rows()
        assert (model.vectors.sum(1) - rows).abs().max() <= 1e-14 * (1 + model.vectors.abs().max())
