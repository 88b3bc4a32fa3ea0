import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from unirain_plugin.archs import products

needs_onednn = pytest.mark.skipif(not products.has_onednn(), reason="this processor uses torch's own product")


@needs_onednn
@pytest.mark.parametrize("outputs", [10, 3])
@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 1, 6), (9, 6)])
def test_values_and_gradients_equal_torchs_own(shape, outputs):
    weight = torch.randn(outputs, 6)
    results = []
    for function in (products.linear, F.linear):
        x, w = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_(), weight.clone()
        y = function(x, w.requires_grad_())
        y.square().sum().backward()
        results.append((y, x.grad, w.grad))
    assert type(results[0][0].grad_fn).__name__ == "_LinearBackward"
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_strided_pixels_and_weights_are_read_right():
    x, weight = torch.randn(4, 3, 12)[..., ::2], torch.randn(6, 10).t()
    torch.testing.assert_close(products.linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("pictures", [1, 2])
def test_each_picture_is_multiplied_with_its_own_matrix(pictures):
    x, matrix = torch.randn(pictures, 5, 4, requires_grad=True), torch.randn(pictures, 4, 4, requires_grad=True)
    y = products.times_picture_matrix(x, matrix)
    torch.testing.assert_close(y, torch.einsum("npc,ncd->npd", x, matrix))
    found = torch.autograd.grad(y.square().sum(), (x, matrix))
    expected = torch.autograd.grad((x @ matrix).square().sum(), (x, matrix))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_only_inputs_that_need_a_gradient_get_one():
    x, weight = torch.randn(3, 4), torch.randn(5, 4, requires_grad=True)
    products.linear(x, weight).sum().backward()
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(5, 4))


def test_counters_and_transforms_see_torchs_own_product():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    with FlopCounterMode(display=False) as counter:
        products.linear(x, weight)
    assert counter.get_total_flops() == 2 * 3 * 4 * 5
    mapped = torch.func.vmap(products.linear, (0, None))(x, weight)
    torch.testing.assert_close(mapped, x @ weight.t())


def test_other_types_are_left_to_torch():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    assert products.linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert products.linear(x, weight).dtype == torch.bfloat16


def test_without_avx512_torchs_own_product_is_used(monkeypatch):
    products.has_onednn.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not products.has_onednn()
    products.has_onednn.cache_clear()


def test_another_torch_without_the_operator_is_no_error(monkeypatch):
    products.has_onednn.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(products, "_onednn", lambda *_: torch.ops.mkldnn.no_such_operator())
    assert not products.has_onednn()
    products.has_onednn.cache_clear()
