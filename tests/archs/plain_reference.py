"""The plain formulation of UniRain, step by step in (N, C, H, W): what the optimised network must equal.

Written from the equations that the modules cite, with none of their re-arrangements: LayerNorm from its definition,
normalised queries and keys, attention times values before the output projection, every expert on everything, masks.
"""

import torch
import torch.nn.functional as F

from unirain_plugin.archs.mixtures import HardMoE, SoftMoE
from unirain_plugin.study.benchmarks.reference_net import PlainAttention, PlainLayerNorm


def layer_norm(norm, x):
    plain = PlainLayerNorm(x.shape[1])
    return torch.func.functional_call(plain, {"weight": norm.weight, "bias": norm.bias}, (x,))


def attention(module, x):
    plain = PlainAttention(x.shape[1], module.heads)
    weights = {
        "temperature": module.temperature.view(-1, 1, 1),
        "qkv.weight": module.qkv[:, :, None, None],
        "depthwise.weight": module.depthwise,
        "project.weight": module.project[:, :, None, None],
    }
    return torch.func.functional_call(plain, weights, (x,))


def expert(experts, number, x):
    wide = F.conv2d(x, experts.expand[number][:, :, None, None])
    kernel = experts.depthwise.chunk(experts.num_experts)[number]
    a, b = F.conv2d(wide, kernel, padding=1, groups=2 * experts.hidden).chunk(2, dim=1)
    return F.conv2d(a * b, experts.project[number][:, :, None, None])


def weights_of(module, x):
    """(N, E, H, W): what each expert's output is multiplied with at each pixel."""
    _, _, height, width = x.shape
    if module.routing == "pixel":
        features = x
    elif module.routing == "image":
        features = x.mean((2, 3), keepdim=True)
    else:
        features = F.avg_pool2d(x, module.window, ceil_mode=True, count_include_pad=False)
    probabilities = F.conv2d(features, module.router.weight[:, :, None, None]).softmax(1)
    if isinstance(module, HardMoE):
        threshold = probabilities.sort(1, descending=True).values[:, module.top_k - 1 : module.top_k]
        kept = probabilities * (probabilities >= threshold)
        probabilities = kept / kept.sum(1, keepdim=True)
    if module.routing == "window":
        probabilities = F.interpolate(probabilities, scale_factor=module.window, mode="nearest")
    return probabilities.expand(-1, -1, max(height, probabilities.shape[2]), max(width, probabilities.shape[3]))[
        :, :, :height, :width
    ]


def feed_forward(module, x):
    if not isinstance(module, (SoftMoE, HardMoE)):
        return expert(module, 0, x)
    weights = weights_of(module, x)
    return sum(weights[:, e : e + 1] * expert(module.experts, e, x) for e in range(module.experts.num_experts))


def block(module, x):
    x = x + attention(module.attention, layer_norm(module.norm1, x))
    return x + feed_forward(module.feed_forward, layer_norm(module.norm2, x))


def down(module, x):
    x = F.conv2d(x, module.conv.weight, padding=1)
    n, c, height, width = x.shape
    x = x.view(n, c, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, 4 * c, height // 2, width // 2)


def up(module, x):
    x = F.conv2d(x, module.conv.weight, padding=1)
    n, c, height, width = x.shape
    x = x.view(n, 2, 2, c // 4, height, width).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, c // 4, 2 * height, 2 * width)


def fuse(module, skip, x):
    weight = torch.cat([module.skip.weight, module.up.weight], 1)[:, :, None, None]
    return F.conv2d(torch.cat([skip, x], 1), weight)


def unirain(net, lq):
    """The network's output for heights and widths divisible by its stride."""
    x, skips = F.conv2d(lq, net.embed.weight, padding=1), []
    for level, stage in enumerate(net.encoder):
        if level:
            skips.append(x)
            x = down(net.down[level - 1], x)
        for module in stage:
            x = block(module, x)
    for level in reversed(range(len(net.decoder))):
        x = fuse(net.fuse[level], skips.pop(), up(net.up[level], x))
        for module in net.decoder[level]:
            x = block(module, x)
    for module in net.refinement:
        x = block(module, x)
    return lq + F.conv2d(x, net.output.weight, padding=1)
