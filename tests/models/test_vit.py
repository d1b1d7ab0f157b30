"""ViT-B/32: the patch tokens of the original networks, in reading order; their weight files; the sizes they refuse."""

import pytest
import torch
from torchvision import models

from bench.contract import CellError, RequestError
from bench.models import vit, weights


@pytest.fixture(scope="module")
def whole():
    """torchvision's own network for small images: four patches, so that a test takes no second."""
    torch.manual_seed(0)
    net = models.vit_b_32(weights=None, image_size=64).eval()
    with torch.no_grad():
        # Both are zero or one at the start, where leaving them out would not show.
        net.class_token.normal_()
        net.encoder.ln.weight.uniform_(0.5, 2)
        net.encoder.ln.bias.normal_()
        net.heads.head.weight.normal_(std=0.1)
        net.heads.head.bias.normal_()
    return net


@pytest.fixture(scope="module")
def features(whole):
    """Ours, with the weights of ``whole``."""
    net = vit.TorchvisionViT("vit_b_32", 768, image_size=64)().eval()
    net.load_state_dict({key: value for key, value in whole.state_dict().items() if not key.startswith("heads.")})
    return net


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(7)


@pytest.mark.parametrize("name", ["vit_b_32", "vit_b_32_augreg"])
def test_shape_and_size(name):
    plan = getattr(vit, name)
    with torch.device("meta"):
        net = plan().eval()
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 768, 7, 7)
    # torchvision's documented count of the whole network, less the head: 88 M in the paper's table.
    count = sum(parameter.numel() for parameter in net.parameters())
    assert count == 88_224_232 - (768 * 1000 + 1000) == 87_455_232
    assert net.channels == plan.channels == 768


@pytest.mark.parametrize("name", ["vit_b_32", "vit_b_32_augreg"])
@pytest.mark.parametrize("size", [(192, 192), (224, 256), (448, 448)])
def test_another_size_is_refused(name, size):
    with torch.device("meta"):
        net = getattr(vit, name)().eval()
        with pytest.raises(CellError, match=f"takes images of 224 x 224 pixels, not {size[0]} x {size[1]}"):
            net(torch.empty(1, 3, *size))


def test_names_are_torchvisions():
    with torch.device("meta"):
        ours, original = vit.vit_b_32().state_dict(), models.vit_b_32(weights=None).state_dict()
    expected = {
        key: value.shape for key, value in original.items() if key not in ("heads.head.weight", "heads.head.bias")
    }
    assert {key: value.shape for key, value in ours.items()} == expected
    assert "class_token" in ours
    assert ours["encoder.pos_embedding"].shape == (1, 50, 768)


def test_features_are_the_encoders_tokens_in_reading_order(whole, features):
    seen = []
    handle = whole.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        whole(images)
        ours = features(images)
    handle.remove()
    assert ours.shape == (3, 768, 2, 2)
    for row in range(2):
        for column in range(2):
            torch.testing.assert_close(ours[:, :, row, column], seen[0][:, 1 + 2 * row + column])
    assert (ours < 0).any()


def test_vit_head_on_mean_feature_is_head_on_mean_token(whole, features):
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        # The original network, its last step replaced: the mean of all tokens but the first instead of the first.
        tokens = whole.conv_proj(images).flatten(2).permute(0, 2, 1)
        tokens = whole.encoder(torch.cat([whole.class_token.repeat(2, 1, 1), tokens], dim=1))
        expected = whole.heads(tokens[:, 1:].mean(1))
        ours = torch.nn.functional.linear(features(images).mean((2, 3)), *whole.heads.parameters())
        with_class_token = whole(images)
    torch.testing.assert_close(ours, expected)
    assert (ours - with_class_token).abs().max() > 0.1


def test_without_positions_moving_patches_moves_features(features):
    """Attention does not know where a token comes from but by its position: with none, cells follow their patches."""
    positions = features.encoder.pos_embedding.detach().clone()
    images = torch.randn(2, 3, 64, 64)
    swapped = torch.cat([images[:, :, :, 32:], images[:, :, :, :32]], dim=3)
    try:
        with torch.no_grad():
            with_positions = features(swapped) - features(images).flip(3)
            features.encoder.pos_embedding.zero_()
            torch.testing.assert_close(features(swapped), features(images).flip(3), rtol=1e-4, atol=1e-4)
            # Columns moved, rows did not.
            assert (features(swapped) - features(images).flip(2)).abs().max() > 0.1
    finally:
        features.encoder.pos_embedding.data.copy_(positions)
    assert with_positions.abs().max() > 1e-3


def test_images_of_a_batch_do_not_meet(features):
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(features(images)[1:2], features(images[1:2]), rtol=1e-4, atol=1e-5)


def test_every_parameter_gets_a_gradient():
    net = vit.PatchTokens(models.vit_b_32(weights=None, image_size=64))
    torch.nn.init.normal_(net.class_token)
    net.train()
    (net(torch.randn(1, 3, 64, 64)) * torch.randn(1, 768, 2, 2)).sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_torchvisions_file_loads_without_its_head(tmp_path, whole):
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    net = vit.TorchvisionViT("vit_b_32", 768, image_size=64)().eval()
    weights.load(net, tmp_path / "w.pth", "vit_b_32")
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in net.state_dict().items())


def test_a_file_of_another_size_is_refused(tmp_path, whole):
    torch.save(whole.state_dict(), tmp_path / "w.pth")
    with torch.device("meta"):
        net = vit.vit_b_32()
    message = r"wrong shape: encoder\.pos_embedding \(1, 5, 768\) instead of \(1, 50, 768\)$"
    with pytest.raises(RequestError, match=message):
        weights.load(net, tmp_path / "w.pth", "vit_b_32")


def test_the_address_of_torchvisions_weights(tmp_path, monkeypatch):
    asked = {}

    def download(url, file, hash_prefix, progress):
        asked.update(url=url, file=file, hash=hash_prefix)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert vit.vit_b_32.fetch(tmp_path) == tmp_path / "vit_b_32-d86f8d99.pth"
    assert asked == {
        "url": "https://download.pytorch.org/models/vit_b_32-d86f8d99.pth",
        "file": str(tmp_path / "vit_b_32-d86f8d99.pth"),
        "hash": "d86f8d99",
    }


def test_timms_weights_are_to_be_passed(tmp_path):
    with pytest.raises(RequestError, match=r"--weights vit_b_32_augreg=PATH, or --set pretrained=false"):
        vit.vit_b_32_augreg.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_timms_network_on_pixels_as_it_expects_them(tmp_path):
    import timm

    torch.manual_seed(0)
    small = {"img_size": 64, "depth": 2, "embed_dim": 96, "num_heads": 3}
    original = timm.create_model("vit_base_patch32_224", num_classes=10, **small).eval()
    with torch.no_grad():
        original.norm.weight.uniform_(0.5, 2)
        original.norm.bias.normal_()
    torch.save(original.state_dict(), tmp_path / "w.pth")
    other = timm.create_model("vit_base_patch32_224", num_classes=0, global_pool="", **small)
    ours = vit.AugregTokens(other).eval()
    weights.load(ours, tmp_path / "w.pth", "vit_b_32_augreg")
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = original.forward_features((pixels - 0.5) / 0.5)[:, 1:]
        found = ours((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        logits = original.head(found.mean((2, 3)))
        torch.testing.assert_close(found, expected.permute(0, 2, 1).reshape(2, 96, 2, 2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, original.head(expected.mean(1)), rtol=1e-4, atol=1e-5)
        # What makes timm's weights need an affine map of their own: at its mean and width nothing would change.
        assert (ours(pixels) - found).abs().max() > 1e-3
