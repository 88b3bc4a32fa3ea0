from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from unirain_plugin.archs import kernels


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request, monkeypatch):
    """Each test with torch's own product and, where it can be called, with oneDNN's, whatever is preferred here."""
    if request.param == "oneDNN" and not kernels.has_onednn():
        pytest.skip("this torch has no oneDNN product")
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: request.param == "oneDNN")


@pytest.fixture(autouse=True)
def fresh_choice():
    """What is known of the processor is found out anew."""
    cached = kernels.prefers_onednn, kernels.has_onednn, kernels.has_bfloat16
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("outputs", [10, 3])
@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 1, 6), (9, 6)])
def test_values_and_gradients_equal_torchs_own(shape, outputs):
    weight = torch.randn(outputs, 6)
    results = []
    for function in (kernels.linear, F.linear):
        x, w = torch.linspace(-1, 1, torch.Size(shape).numel()).view(shape).requires_grad_(), weight.clone()
        y = function(x, w.requires_grad_())
        y.square().sum().backward()
        results.append((y, x.grad, w.grad))
    assert type(results[0][0].grad_fn).__name__ == "_LinearBackward"
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("gradients", [True, False])
def test_strided_pixels_and_weights_are_read_right(gradients):
    x, weight = torch.randn(4, 3, 12)[..., ::2], torch.randn(6, 10).t()
    with torch.set_grad_enabled(gradients):
        torch.testing.assert_close(kernels.linear(x, weight), F.linear(x, weight))


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("images", [1, 2])
def test_each_image_is_multiplied_with_its_own_matrix(images):
    x, matrix = torch.randn(images, 5, 4, requires_grad=True), torch.randn(images, 4, 4, requires_grad=True)
    y = kernels.times_image_matrix(x, matrix)
    torch.testing.assert_close(y, torch.einsum("npc,ncd->npd", x, matrix))
    found = torch.autograd.grad(y.square().sum(), (x, matrix))
    expected = torch.autograd.grad((x @ matrix).square().sum(), (x, matrix))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("of_weight", [True, False])
def test_only_inputs_that_need_a_gradient_get_one_and_only_what_that_needs_is_kept(of_weight):
    x, weight = torch.randn(3, 4, requires_grad=not of_weight), torch.randn(5, 4, requires_grad=of_weight)
    y = kernels.linear(x, weight)
    assert [kept is not None for kept in y.grad_fn.saved_tensors] == [of_weight, not of_weight]
    y.sum().backward()
    needed, other, needs = (weight, x, x) if of_weight else (x, weight, weight)
    assert other.grad is None
    torch.testing.assert_close(needed.grad, needs.detach().sum(0).expand_as(needed))


def test_counters_transforms_and_other_types_get_torchs_own_product():
    x, weight = torch.randn(3, 4), torch.randn(5, 4)
    with FlopCounterMode(display=False) as counter:
        kernels.linear(x, weight)
    assert counter.get_total_flops() == 2 * 3 * 4 * 5
    mapped = torch.func.vmap(kernels.linear, (0, None))(x, weight)
    torch.testing.assert_close(mapped, x @ weight.t())
    assert kernels.linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.bfloat16):
        assert kernels.linear(x, weight).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("capability", "processor", "expected"),
    [
        ("AVX2", {"cpu_name": "AMD EPYC"}, False),
        ("AVX512", {"cpu_name": "AMD EPYC"}, True),
        ("AVX512", {}, False),
        ("AVX512", None, False),
        ("AVX512", {"cpu_name": "Intel Xeon"}, False),
    ],
)
def test_onednn_is_preferred_on_amds_processors_with_avx512_where_torch_has_it(
    monkeypatch, capability, processor, expected
):
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_onednn", lambda *_: torch.ops.mkldnn.no_such_operator())
        assert not kernels.has_onednn()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(kernels, "has_onednn", lambda: True)
    if processor is None:
        monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    else:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    assert kernels.prefers_onednn() is expected


@pytest.mark.parametrize(
    ("capability", "onednn", "expected"),
    [("AVX512", False, True), ("DEFAULT", False, True), ("AVX2", True, True), ("AVX2", False, False)],
)
def test_bfloat16_is_of_no_use_on_x86_without_instructions_for_it(monkeypatch, capability, onednn, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    with nullcontext() if expected else pytest.warns(UserWarning, match="float32 is used instead"):
        assert kernels.has_bfloat16() == expected
