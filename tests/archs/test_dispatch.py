import pytest
import torch

from unirain_plugin.archs import kernels, mixtures
from unirain_plugin.archs.mixtures import Experts, HardMoE, SoftMoE, run_expert
from unirain_plugin.archs.options import NetworkOptions


def layer(**options):
    module = HardMoE(6, 2.0, NetworkOptions(**options))
    torch.nn.init.normal_(module.router.weight)
    return module


ROUTES = [
    {"top_k": 1},
    {"top_k": 2},
    {"top_k": 3},
    {"top_k": 1, "hard_routing": "window", "window": 4},
    {"top_k": 2, "hard_routing": "window", "window": 5},
]


@pytest.mark.parametrize("options", ROUTES)
@pytest.mark.parametrize("size", [(8, 8), (11, 9), (1, 1), (1, 17), (17, 1), (3, 17)])
def test_sparse_equals_dense_with_masks_in_output_and_gradients(options, size):
    sparse = layer(**options)
    dense = HardMoE(6, 2.0, NetworkOptions(**options, dispatch="dense"))
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(4, *size, 6)
    target = torch.randn(4, *size, 6)
    results = []
    for module in (sparse, dense):
        module.zero_grad()
        leaf = x.clone().requires_grad_()
        y, record = module(leaf)
        ((y - target) ** 2).sum().backward()
        results.append((y, leaf.grad, *(p.grad for p in module.parameters()), record.chosen.float()))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())
    with torch.no_grad():
        torch.testing.assert_close(sparse(x)[0], results[1][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 4])
def test_weights_gathered_on_a_gpu_give_what_the_chosen_experts_give(top_k, images):
    module = layer(top_k=top_k)
    x = torch.randn(images, 5, 7, 6, requires_grad=True)
    results = []
    for gathered in (False, True):
        chosen, weights, _ = mixtures.choose_top_k(module.router(x.mean((1, 2), keepdim=True)).flatten(1, 2), top_k)
        if gathered:
            y = mixtures.dispatch_gathered(x, module.experts, chosen[:, 0], weights[:, 0])
        else:
            y = mixtures.dispatch_images(x, module.experts, chosen, weights)
        target = torch.linspace(-1, 1, y.numel()).view(y.shape)
        results.append((y, *torch.autograd.grad((y * target).sum(), [x, *module.parameters()])))
    assert images == 1 or top_k == 3 or len(chosen.unique(dim=0)) > 1
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * b.abs().max().item())


@pytest.mark.parametrize("options", ROUTES)
@pytest.mark.parametrize("strip_bytes", [1, 10**6])
@pytest.mark.parametrize(
    "kind", ["float32", "oneDNN", "float64", "bfloat16", "autocast", "float64 autocast", "columns first"]
)
def test_without_gradients_the_result_is_the_same(options, kind, strip_bytes, monkeypatch):
    monkeypatch.setattr(kernels, "STRIP_BYTES", strip_bytes)
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: kind == "oneDNN" and kernels.has_onednn())
    dtype = torch.float64 if "float64" in kind else torch.bfloat16 if kind == "bfloat16" else torch.float32
    module = layer(**options).to(dtype)
    x = torch.randn(2, 11, 9, 6, dtype=dtype)
    x = x.transpose(1, 2).contiguous().transpose(1, 2) if kind == "columns first" else x
    with torch.autocast("cpu", torch.bfloat16, enabled="autocast" in kind):
        expected, record = module(x)
        with torch.no_grad():
            y, again = module(x)
    assert y.dtype == expected.dtype
    assert torch.equal(record.chosen, again.chosen)
    rounding = 0.03 if torch.bfloat16 in (dtype, y.dtype) else 1e-6
    torch.testing.assert_close(y, expected, rtol=rounding, atol=rounding * expected.abs().max().item())


def test_only_chosen_experts_run_and_others_receive_zero_gradients(monkeypatch):
    module = layer(top_k=1)
    module.router.weight.data.zero_()  # ties: expert 0 for all
    ran = []
    original = mixtures.run_expert
    unbound = module.experts.unbind()

    def spy(x, expert, **more):
        ran.append([e for e, weights in enumerate(unbound) if torch.equal(weights[0], expert[0])])
        return original(x, expert, **more)

    monkeypatch.setattr(mixtures, "run_expert", spy)
    module(torch.randn(3, 8, 8, 6))[0].sum().backward()
    assert ran == [[0]]
    for parameter in module.experts.parameters():
        first, *others = parameter.grad.chunk(module.experts.num_experts)
        assert first.abs().sum() > 0
        assert all(other.abs().sum() == 0 for other in others)
    _, record = SoftMoE(6, 2.0, NetworkOptions())(torch.randn(1, 4, 4, 6))
    assert record.probabilities.shape == (1, 16, 3)
    assert record.probabilities.std(1).min() > 0  # a soft mixture's weights vary in space


@pytest.mark.parametrize("strip_bytes", [1, 1500, 10**6])
@pytest.mark.parametrize(
    "edges", [(0, 13, 0, 7), (0, 4, 2, 7), (3, 9, 2, 5), (9, 13, 0, 7), (5, 6, 6, 7), (0, 13, 3, 4), (12, 13, 0, 1)]
)
def test_a_region_equals_its_part_of_the_whole_map(edges, strip_bytes, monkeypatch):
    expert = Experts(6, 4, 1).unbind()[0]
    x, weights = torch.randn(13, 7, 6), torch.rand(13, 7, 1)
    region = slice(*edges[:2]), slice(*edges[2:])
    whole = run_expert(x[None], expert)[0] * weights  # W_out has no bias: the same weight before or behind it
    monkeypatch.setattr(kernels, "STRIP_BYTES", strip_bytes)
    expand, depthwise, project = expert
    with torch.no_grad():
        parts = kernels.expanded_strips(x, expand, depthwise, region)
        strips = list(kernels.gated_strips(parts, weights))
    rows = [where for (where, _), _ in strips]
    assert [edges[0], *(r.stop for r in rows)] == [r.start for r in rows] + [edges[1]]
    assert all(columns == region[1] for (_, columns), _ in strips)
    found = torch.cat([product for _, product in strips]) @ project.t()
    torch.testing.assert_close(found, whole[region], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_rectangles_cover_each_marked_window_once(seed):
    marks = torch.rand(6, 7, generator=torch.Generator().manual_seed(seed)) < (0.6, 0.6, 0.6, 0, 1)[seed]
    if seed == 4:  # windows that touch run together
        assert len(list(mixtures._rectangles(marks.tolist(), 4, 22, 26))) == 1
    covered = torch.zeros(22, 26, dtype=torch.int)
    for region in mixtures._rectangles(marks.tolist(), 4, 22, 26):
        covered[region] += 1
    expected = marks.repeat_interleave(4, 0).repeat_interleave(4, 1)[:22, :26]
    assert torch.equal(covered, expected.int())
