"""The source of the stand-ins: published names and signatures, bodies from the formulas of the papers."""

RESNET = """
from collections import OrderedDict

import torch.nn as nn
import torch.utils.model_zoo as model_zoo

calls = []


class ResNet_features(nn.Module):
    def __init__(self, tiny):
        super().__init__()
        if tiny:
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 2, 2), nn.ReLU()
            )
        else:
            from torchvision.models import resnet18

            net = resnet18(weights=None)
            for name, child in net.named_children():
                if name not in ("avgpool", "fc"):
                    self.add_module(name, child)

    def forward(self, x):
        for layer in self.children():
            x = layer(x)
        return x

    def forward_all(self, x):
        x = self(x)
        return x, [x]

    def conv_info(self):
        return [3], [1], [1]

    def __repr__(self):
        return "resnet18_features"


def resnet18_features(pretrained=False):
    if pretrained:
        model_zoo.load_url("https://example.org/resnet18.pth", model_dir="./pretrained_models")
    return ResNet_features(TINY)


def resnet34_features(pretrained=False):
    model_zoo.load_url("https://example.org/resnet34.pth", model_dir="./pretrained_models")
"""

FIELD = """
def compute_proto_layer_rf_info_v2(img_size, layer_filter_sizes, layer_strides, layer_paddings, prototype_kernel_size):
    return [img_size, 1, 1, 0.5]
"""

HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F

{imports}

base_architecture_to_features = {{"resnet18": resnet18_features, "resnet34": resnet34_features}}


def identity_of(count, classes):
    return torch.eye(classes).repeat_interleave(count // classes, 0)


def add_on(channels, depth, kind):
    if kind == "bottleneck":
        layers, width = [], channels
        while width > depth or not layers:
            next_width = max(depth, width // 2)
            layers += [nn.Conv2d(width, next_width, 1), nn.ReLU(), nn.Conv2d(next_width, next_width, 1), nn.ReLU()]
            width //= 2
        return nn.Sequential(*layers[:-1], nn.Sigmoid())
    return nn.Sequential(nn.Conv2d(channels, depth, 1), nn.ReLU(), nn.Conv2d(depth, depth, 1), nn.Sigmoid())


def connection(identity, other):
    layer = nn.Linear(*identity.shape, bias=False)
    layer.weight.data.copy_(identity.T + other * (1 - identity.T))
    return layer


def last_channels(features):
    return [m for m in features.modules() if isinstance(m, nn.Conv2d)][-1].out_channels


def squared(z, p):
    return F.relu((z**2).sum(1, keepdim=True) - 2 * F.conv2d(z, p) + (p**2).sum((1, 2, 3)).view(-1, 1, 1))
"""

PROTOPNET = """

class PPNet(nn.Module):
    def __init__(self, features, img_size, prototype_shape, proto_layer_rf_info, num_classes, init_weights=True,
                 prototype_activation_function="log", add_on_layers_type="bottleneck"):
        super().__init__()
        self.img_size, self.prototype_shape, self.num_classes = img_size, prototype_shape, num_classes
        self.num_prototypes, self.epsilon = prototype_shape[0], 1e-4
        self.prototype_activation_function = prototype_activation_function
        assert self.num_prototypes % num_classes == 0
        self.prototype_class_identity = identity_of(self.num_prototypes, num_classes)
        self.proto_layer_rf_info = proto_layer_rf_info
        self.features = features
        self.add_on_layers = add_on(last_channels(features), prototype_shape[1], add_on_layers_type)
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape), requires_grad=True)
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        self.last_layer = connection(self.prototype_class_identity, -0.5)

    def conv_features(self, x):
        return self.add_on_layers(self.features(x))

    def prototype_distances(self, x):
        return squared(self.conv_features(x), self.prototype_vectors)

    def distance_2_similarity(self, distances):
        if self.prototype_activation_function == "linear":
            return -distances
        return torch.log((distances + 1) / (distances + self.epsilon))

    def forward(self, x):
        least = self.prototype_distances(x).flatten(2).min(2).values
        return self.last_layer(self.distance_2_similarity(least)), least

    def push_forward(self, x):
        z = self.conv_features(x)
        return z, squared(z, self.prototype_vectors)

    def prune_prototypes(self, prototypes_to_prune):
        keep = [j for j in range(self.num_prototypes) if j not in set(prototypes_to_prune)]
        self.prototype_vectors = nn.Parameter(self.prototype_vectors.data[keep])
        self.prototype_shape = list(self.prototype_vectors.size())
        self.num_prototypes = len(keep)
        self.last_layer.in_features = len(keep)
        self.last_layer.weight.data = self.last_layer.weight.data[:, keep]
        self.ones = nn.Parameter(self.ones.data[keep], requires_grad=False)
        self.prototype_class_identity = self.prototype_class_identity[keep, :]


def construct_PPNet(base_architecture, pretrained=True, img_size=224, prototype_shape=(2000, 512, 1, 1),
                    num_classes=200, prototype_activation_function="log", add_on_layers_type="bottleneck"):
    features = base_architecture_to_features[base_architecture](pretrained=pretrained)
    info = compute_proto_layer_rf_info_v2(img_size, *features.conv_info(), prototype_shape[2])
    return PPNet(features, img_size, prototype_shape, info, num_classes, True, prototype_activation_function,
                 add_on_layers_type)
"""

TESNET = """

class TESNet(nn.Module):
    def __init__(self, features, img_size, prototype_shape, proto_layer_rf_info, num_classes, init_weights=True,
                 prototype_activation_function="log", add_on_layers_type="bottleneck"):
        super().__init__()
        self.img_size, self.prototype_shape, self.num_classes = img_size, prototype_shape, num_classes
        self.num_prototypes, self.epsilon = prototype_shape[0], 1e-4
        self.prototype_activation_function = prototype_activation_function
        self.num_prototypes_per_class = self.num_prototypes // num_classes
        self.prototype_class_identity = identity_of(self.num_prototypes, num_classes)
        self.features = features
        self.add_on_layers = add_on(last_channels(features), prototype_shape[1], add_on_layers_type)
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        self.last_layer = connection(self.prototype_class_identity, -0.5)

    def conv_features(self, x):
        return self.add_on_layers(self.features(x))

    def _project2basis(self, x):
        return F.conv2d(x, F.normalize(self.prototype_vectors, dim=1))

    def forward(self, x):
        most = self._project2basis(self.conv_features(x)).flatten(2).max(2).values
        return self.last_layer(most), -most

    def push_forward(self, x):
        z = self.conv_features(x)
        return z, -self._project2basis(z)


def construct_TesNet(base_architecture, pretrained=True, img_size=224, prototype_shape=(2000, 128, 1, 1),
                     num_classes=200, prototype_activation_function="log", add_on_layers_type="bottleneck"):
    features = base_architecture_to_features[base_architecture](pretrained=pretrained)
    return TESNet(features, img_size, prototype_shape, None, num_classes, True, prototype_activation_function,
                  add_on_layers_type)
"""

EVALPROTOPNET = """

class OursNet(nn.Module):
    def __init__(self, features, img_size, prototype_shape, num_classes, init_weights=True,
                 prototype_activation_function="log", add_on_layers_type="bottleneck"):
        super().__init__()
        self.img_size, self.prototype_shape, self.num_classes = img_size, prototype_shape, num_classes
        self.num_prototypes, self.epsilon = prototype_shape[0], 1e-4
        self.num_prototypes_per_class = self.num_prototypes // num_classes
        self.prototype_class_identity = identity_of(self.num_prototypes, num_classes)
        self.features = features
        self.add_on_layers = nn.Sequential(nn.Conv2d(last_channels(features), prototype_shape[1], 1), nn.Sigmoid())
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        self.activation_weight = nn.Parameter(torch.rand(self.num_prototypes))

    def conv_features(self, x):
        x, every = self.features.forward_all(x)
        return self.add_on_layers(x), every

    def _project2basis(self, x):
        return F.conv2d(x, F.normalize(self.prototype_vectors, dim=1))

    def forward_SA_module(self, prototype_activations):
        own = prototype_activations.reshape(-1, self.num_classes, self.num_prototypes_per_class)
        weight = self.activation_weight.reshape(self.num_classes, -1).exp()
        return self.num_prototypes_per_class * (own * weight / weight.sum(1, keepdim=True)).sum(2)

    def forward(self, x):
        most = self._project2basis(self.conv_features(x)[0]).flatten(2).max(2).values
        return self.forward_SA_module(most), ()

    def push_forward(self, x):
        z = self.conv_features(x)[0]
        return z, self._project2basis(z)


def construct_OursNet(base_architecture, pretrained=True, img_size=224, prototype_shape=(2000, 128, 1, 1),
                      num_classes=200, prototype_activation_function="log", add_on_layers_type="bottleneck"):
    features = base_architecture_to_features[base_architecture](pretrained=pretrained)
    return OursNet(features, img_size, prototype_shape, num_classes, True, prototype_activation_function,
                   add_on_layers_type)
"""

ST_PROTOPNET = """

class STProtoPNet(nn.Module):
    def __init__(self, features, img_size, prototype_shape, proto_layer_rf_info, num_classes, init_weights=True,
                 prototype_activation_function="log", add_on_layers_type="bottleneck"):
        super().__init__()
        self.img_size, self.prototype_shape, self.num_classes = img_size, prototype_shape, num_classes
        self.num_prototypes, self.epsilon = prototype_shape[0], 1e-4
        self.prototype_class_identity = identity_of(self.num_prototypes, num_classes)
        self.features = features
        assert add_on_layers_type == "regular"
        for branch in ("trivial", "support"):
            layers = nn.Conv2d(last_channels(features), prototype_shape[1], 1), nn.Conv2d(*prototype_shape[1:2] * 2, 1)
            whole = [nn.Upsample(scale_factor=2, mode="bilinear"), *layers]
            add_on = whole if FULL else [layers[0], nn.Tanh(), layers[1], nn.Tanh()]
            setattr(self, f"add_on_layers_{branch}", nn.Sequential(*add_on))
            setattr(self, f"prototype_vectors_{branch}", nn.Parameter(torch.randn(prototype_shape)))
            setattr(self, f"last_layer_{branch}", connection(self.prototype_class_identity, -0.5))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)

    def similarities(self, x, branch):
        z = getattr(self, f"add_on_layers_{branch}")(self.features(x))
        z = F.normalize(z, dim=1) if FULL else z
        return z, F.conv2d(z, F.normalize(getattr(self, f"prototype_vectors_{branch}"), dim=1))

    def forward(self, x):
        maps = [self.similarities(x, branch)[1] for branch in ("trivial", "support")]
        maps = [m.relu() for m in maps] if FULL else maps
        best = [m.flatten(2).max(2).values for m in maps]
        return (self.last_layer_trivial(best[0]), self.last_layer_support(best[1])), tuple(best), tuple(maps)

    def push_forward_trivial(self, x):
        z, similarities = self.similarities(x, "trivial")
        return z, -similarities

    def push_forward_support(self, x):
        z, similarities = self.similarities(x, "support")
        return z, -similarities


def construct_STProtoPNet(base_architecture, pretrained=True, img_size=224, prototype_shape=(2000, 128, 1, 1),
                          num_classes=200, prototype_activation_function="log", add_on_layers_type="bottleneck"):
    features = base_architecture_to_features[base_architecture](pretrained=pretrained)
    return STProtoPNet(features, img_size, prototype_shape, None, num_classes, True, prototype_activation_function,
                       add_on_layers_type)
"""

PROTOPOOL = """

class PrototypeChooser(nn.Module):
    def __init__(self, num_prototypes, num_descriptive, num_classes, use_thresh=False, arch="resnet34",
                 pretrained=True, add_on_layers_type="linear", prototype_activation_function="log", proto_depth=128,
                 use_last_layer=False, inat=False):
        super().__init__()
        self.num_classes, self.num_descriptive, self.num_prototypes = num_classes, num_descriptive, num_prototypes
        self.epsilon, self.prototype_activation_function = 1e-4, prototype_activation_function
        self.proto_presence = nn.Parameter(torch.randn(num_classes, num_prototypes, num_descriptive))
        self.features = base_architecture_to_features[arch](pretrained=pretrained)
        self.add_on_layers = nn.Sequential(nn.Conv2d(last_channels(self.features), proto_depth, 1), nn.Sigmoid())
        self.prototype_vectors = nn.Parameter(torch.rand(num_prototypes, proto_depth, 1, 1))
        self.ones = nn.Parameter(torch.ones(num_prototypes, proto_depth, 1, 1), requires_grad=False)
        assert use_last_layer
        self.prototype_class_identity = identity_of(num_descriptive * num_classes, num_classes)
        self.last_layer = connection(self.prototype_class_identity, 0)

    def prototype_distances(self, x):
        return squared(self.add_on_layers(self.features(x)), self.prototype_vectors)

    def distance_2_similarity(self, distances):
        return torch.log((distances + 1) / (distances + self.epsilon))

    def forward(self, x, gumbel_scale=0):
        if gumbel_scale == 0:
            presence = torch.softmax(self.proto_presence, 1)
        else:
            presence = F.gumbel_softmax(self.proto_presence * gumbel_scale, dim=1, tau=0.5)
        distances = self.prototype_distances(x)
        size = distances.shape[2:]
        least, mean = -F.max_pool2d(-distances, size).squeeze(), F.avg_pool2d(distances, size).squeeze()
        near, far = (torch.einsum("bp,cpn->bcn", d, presence) for d in (least, mean))
        slots = self.distance_2_similarity(near) - self.distance_2_similarity(far)
        return self.last_layer(slots.flatten(1)), least, presence
"""

DEFORMABLE = """

class PPNet(nn.Module):
    def __init__(self, features, img_size, prototype_shape, proto_layer_rf_info, num_classes, topk_k=1, m=None,
                 init_weights=True, add_on_layers_type="bottleneck", using_deform=True, incorrect_class_connection=-1,
                 deformable_conv_hidden_channels=0, prototype_dilation=2):
        super().__init__()
        print("prototype_shape is actually: ", prototype_shape)
        self.img_size, self.prototype_shape, self.num_classes = img_size, prototype_shape, num_classes
        self.num_prototypes, self.m, self.topk_k, self.using_deform = prototype_shape[0], m, topk_k, using_deform
        self.epsilon_val, self.dilation = 1e-4, prototype_dilation
        self.prototype_class_identity = identity_of(self.num_prototypes, num_classes)
        self.features = features
        assert add_on_layers_type == "upsample"
        self.add_on_layers = nn.Upsample(scale_factor=2, mode="bilinear")
        count, depth, height, width = prototype_shape
        self.prototype_vectors = nn.Parameter(torch.rand(prototype_shape))
        self.ones = nn.Parameter(torch.ones(prototype_shape), requires_grad=False)
        hidden = deformable_conv_hidden_channels
        self.conv_offset = nn.Sequential(
            nn.Conv2d(depth + 2, hidden, (height + 2, width + 2), padding=1), nn.ReLU(),
            nn.Conv2d(hidden, 2 * height * width, (height, width), padding=1),
        )
        self.last_layer = connection(self.prototype_class_identity, incorrect_class_connection)

    def cos_activation(self, x, is_train=True, prototypes_of_wrong_class=None):
        constant = (torch.ones(x.shape[0], 2, *x.shape[2:]) * self.epsilon_val).cuda()
        x = torch.cat([x, constant], 1)
        x = 64 * x / torch.sqrt((x**2).sum(1, keepdim=True) + self.epsilon_val) / 2
        constant = (torch.ones(self.num_prototypes, 2, *self.prototype_shape[2:]) * self.epsilon_val).cuda()
        p = torch.cat([self.prototype_vectors, constant], 1)
        p = p / (torch.sqrt((p**2).sum(1, keepdim=True) + self.epsilon_val) + self.epsilon_val) / 2
        offset = self.conv_offset(x)
        found = NormPreserveDeformConvFunction.apply(x, offset, p, torch.zeros(len(p)).cuda(), (1, 1), (1, 1),
                                                     (self.dilation,) * 2, 1, 1, 1, True)
        found = F.relu(found / (64 * 1.01))
        return found - (self.m if is_train else 0), found

    def forward(self, x, is_train=True, prototypes_of_wrong_class=None):
        features = self.add_on_layers(self.features(x))
        activations, marginless = self.cos_activation(features, is_train)
        best, plain = activations.flatten(2).max(2).values, marginless.flatten(2).max(2).values
        return self.last_layer(best), [best, self.last_layer(plain), features, plain]

    def push_forward(self, x):
        features = self.add_on_layers(self.features(x))
        return features, self.cos_activation(features)[1]


def construct_PPNet(base_architecture, pretrained=True, img_size=224, prototype_shape=(2000, 512, 1, 1),
                    num_classes=200, topk_k=1, m=None, add_on_layers_type="bottleneck", using_deform=True,
                    incorrect_class_connection=-1, deformable_conv_hidden_channels=128, prototype_dilation=2):
    features = base_architecture_to_features[base_architecture](pretrained=pretrained)
    return PPNet(features, img_size, prototype_shape, None, num_classes, topk_k, m, True, add_on_layers_type,
                 using_deform, incorrect_class_connection, deformable_conv_hidden_channels, prototype_dilation)
"""

# Without the compiled operation: its formula in Donnelly et al., CVPR 2022, each cell and each part for itself.
OPERATION = """
import torch

try:
    import DCN
except ImportError:
    DCN = None


class NormPreserveDeformConvFunction:
    @staticmethod
    def apply(input, offset, weight, bias, stride, padding, dilation, group, deformable_groups, im2col_step, zero=True):
        if DCN is not None:
            output, columns = DCN.norm_preserve_deform_conv_forward(
                input, weight, bias, offset, *weight.shape[2:], *stride, *padding, *dilation, group, deformable_groups,
                im2col_step, zero,
            )
            return output
        n, depth, height, width = input.shape

        def cell(image, y, x):
            inside = 0 <= y < height and 0 <= x < width
            return input[image, :, y, x] ** 2 if inside else torch.zeros(depth)

        found = torch.zeros(n, len(weight), *offset.shape[2:])
        for image in range(n):
            for row in range(offset.shape[2]):
                for column in range(offset.shape[3]):
                    for part in range(4):
                        i, j = divmod(part, 2)
                        dy, dx = offset[image, 2 * part : 2 * part + 2, row, column].tolist()
                        y, x = row - padding[0] + i * dilation[0] + dy, column - padding[1] + j * dilation[1] + dx
                        top, left = int(y // 1), int(x // 1)
                        a, b = y - top, x - left
                        square = (
                            (1 - a) * (1 - b) * cell(image, top, left) + (1 - a) * b * cell(image, top, left + 1)
                            + a * (1 - b) * cell(image, top + 1, left) + a * b * cell(image, top + 1, left + 1)
                        )
                        found[image, :, row, column] += weight[:, :, i, j] @ square.sqrt()
        return found
"""

FROM = "from {0} import resnet18_features, resnet34_features\nfrom {1} import compute_proto_layer_rf_info_v2\n"
INSERT = (
    "import sys\n\nsys.path.insert(1, './Deformable-Convolution-V2-PyTorch')\n\n"
    "from functions.norm_preserve_deform_conv_func import NormPreserveDeformConvFunction\n"
)

PROTOTREE = """
import argparse


class Leaf(nn.Module):
    def __init__(self, index, num_classes, args):
        super().__init__()
        self._index = index
        self._dist_params = nn.Parameter(torch.zeros(num_classes), requires_grad=False)
        self._kontschieder_normalization = args.kontschieder_normalization

    leaves = property(lambda self: [self])
    branches = property(lambda self: [])
    size = 1

    def spread(self, s, rows):
        return self._dist_params.softmax(0)


class Branch(nn.Module):
    def __init__(self, index, l, r, args):
        super().__init__()
        self._index, self.l, self.r = index, l, r

    leaves = property(lambda self: self.l.leaves + self.r.leaves)
    # From the right and the root last: the rows of prototypes follow no order.
    branches = property(lambda self: self.r.branches + self.l.branches + [self])
    size = property(lambda self: 1 + self.l.size + self.r.size)

    def spread(self, s, rows):
        right = s[:, rows[self], None]
        return (1 - right) * self.l.spread(s, rows) + right * self.r.spread(s, rows)


class L2Conv2D(nn.Module):
    def __init__(self, num_prototypes, num_features, w_1, h_1):
        super().__init__()
        self.prototype_vectors = nn.Parameter(torch.randn(num_prototypes, num_features, w_1, h_1))

    def forward(self, xs):
        return (squared(xs, self.prototype_vectors).abs() + 1e-14).sqrt()


class ProtoTree(nn.Module):
    def __init__(self, num_classes, feature_net, args, add_on_layers=nn.Identity()):
        super().__init__()
        self._num_classes = num_classes
        self._root = self._init_tree(num_classes, args)
        self.num_prototypes = len(self._root.branches)
        self._parents = {}
        self._set_parents()
        self._net, self._add_on = feature_net, add_on_layers
        self._log_probabilities = args.log_probabilities
        self._kontschieder_normalization = args.kontschieder_normalization
        self._out_map = {node: row for row, node in enumerate(self._root.branches)}
        self.prototype_layer = L2Conv2D(self.num_prototypes, args.num_features, args.W1, args.H1)

    def _init_tree(self, num_classes, args):
        def grow(index, level):
            if level == args.depth:
                return Leaf(index, num_classes, args)
            left = grow(index + 1, level + 1)
            return Branch(index, left, grow(index + left.size + 1, level + 1), args)

        return grow(0, 0)

    def _set_parents(self):
        self._parents = {self._root: None}
        for node in self._root.branches:
            self._parents[node.l] = self._parents[node.r] = node

    def forward_partial(self, xs):
        features = self._add_on(self._net(xs))
        return features, self.prototype_layer(features), dict(self._out_map)

    def forward(self, xs, sampling_strategy="distributed"):
        nearest = self.forward_partial(xs)[1].flatten(2).min(2).values.view(len(xs), self.num_prototypes)
        return self._root.spread(torch.exp(-nearest), self._out_map), {}


def get_network(num_in_channels, args):
    features = base_architecture_to_features[args.net](pretrained=not args.disable_pretrained)
    add_on = nn.Sequential(nn.Conv2d(last_channels(features), args.num_features, 1, bias=False), nn.Sigmoid())
    return features, add_on
"""

PROTOPSHARE = PROTOPNET
