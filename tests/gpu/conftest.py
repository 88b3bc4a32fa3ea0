import pytest
import torch
from pretended_cuda import pretended_cuda


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture()
def gpu():
    """A context in which ``cuda`` is the machine's GPU, or a pretended one."""
    if torch.cuda.is_available():  # in float32 proper, as the CPU computes
        return lambda: torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    return pretended_cuda
