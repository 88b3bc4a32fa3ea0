import pytest
import torch

from unirain_plugin.archs.unirain_arch import UniRain

SMALL = {
    "dim": 6, "num_blocks": [1, 1, 1], "decoder_blocks": [1, 1], "heads": [1, 2, 4], "refinement_blocks": 1,
    "encoder_expansion": 2.0, "latent_expansion": 2.0, "decoder_expansion": 2.0, "refinement_expansion": 1.0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _threads_and_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture()
def small():
    """Build a three-level network whose routers tell images apart (weights of 1, not of 0.02)."""

    def build(**changes):
        torch.manual_seed(1)
        net = UniRain(**{**SMALL, **changes})
        for name, parameter in net.named_parameters():
            if name.endswith("router.weight"):
                torch.nn.init.normal_(parameter)
        return net

    return build
