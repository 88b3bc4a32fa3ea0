"""The training objective: pixel loss (with labels, if it takes them), perceptual loss and auxiliary MoE losses."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from unirain_plugin.errors import OptionError, did_you_mean


def learned_parameters(loss: nn.Module | None) -> list[nn.Parameter]:
    """What a loss wants trained along with the network: what its ``learned_parameters()`` names, nothing in others.

    A network inside a loss judges the pictures. Given to the optimiser, it would learn to be content.
    """
    return getattr(loss, "learned_parameters", list)()


def loss_state(loss: nn.Module) -> dict[str, Any]:
    """A loss's ``state_dict()`` without the parameters that nobody trains: the option file names them."""
    learned = {id(parameter) for parameter in learned_parameters(loss)}
    fixed = {name for name, parameter in loss.named_parameters() if id(parameter) not in learned}
    return {name: value for name, value in loss.state_dict().items() if name not in fixed}


class Objective:
    """Sums up the terms of the loss for one micro-batch.

    Args:
        network: The network without wrappers; its ``auxiliary_losses()`` are read after each forward if it has them.
            None: there are none.
        pixel: The loss of ``train: pixel_opt``, or None.
        perceptual: The loss of ``train: perceptual_opt``, or None.
        aux_weights: Weight of each auxiliary loss.
    """

    def __init__(
        self, network: nn.Module | None, pixel: Any, perceptual: Any, aux_weights: Mapping[str, float]
    ) -> None:
        self._network, self._pixel, self._perceptual = network, pixel, perceptual
        self._aux_weights = aux_weights
        self._takes_labels = pixel is not None and "rain_type" in inspect.signature(pixel.forward).parameters
        self._checked = False
        self._whole_batch = False

    def begin_batch(self, rain_type: Tensor | None, parts: int) -> None:
        """Announce a batch that will be cut into ``parts`` micro-batches.

        A loss that is no plain mean over samples (ours: a mean per type) needs the labels of the whole batch to give
        each micro-batch its share; stock losses are weighted by the number of samples instead.
        """
        begin = getattr(self._pixel, "begin_batch", None)
        self._whole_batch = parts > 1 and self._takes_labels and rain_type is not None and begin is not None
        if self._whole_batch:
            begin(rain_type)

    def __call__(
        self, output: Tensor, target: Tensor, rain_type: Tensor | None, share: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the share of a micro-batch in the loss of its batch.

        Args:
            output: (n, 3, H, W) float32.
            target: (n, 3, H, W) in [0, 1].
            rain_type: (n,) int64 or None.
            share: n divided by the size of the whole batch.

        Returns:
            The sum of all terms, and the detached terms by their names in the log.
        """
        terms: dict[str, Tensor] = {}
        if self._pixel is not None:
            labels = {"rain_type": rain_type} if self._takes_labels and rain_type is not None else {}
            is_share = self._whole_batch or getattr(self._pixel, "reduction", "mean") == "sum"
            terms["l_pix"] = self._pixel(output, target, **labels) * (1.0 if is_share else share)
        if self._perceptual is not None:
            for name, value in zip(("l_percep", "l_style"), self._perceptual(output, target), strict=True):
                if value is not None:
                    terms[name] = value * share
        for name, value in self._auxiliary().items():
            terms[f"l_aux_{name}"] = value * (self._aux_weights.get(name, 0.0) * share)
        total = torch.stack([term.float().reshape(()) for term in terms.values()]).sum()
        return total, {name: term.detach().float().reshape(()) for name, term in terms.items()}

    def _auxiliary(self) -> dict[str, Tensor]:
        losses = getattr(self._network, "auxiliary_losses", dict)()
        if not self._checked:
            self._check_names(losses)
        return losses

    def _check_names(self, losses: Mapping[str, Tensor]) -> None:
        """Once, after the first forward: only then does the network tell which auxiliary losses it has."""
        from unirain_plugin.models.settings import AUX_WEIGHTS

        self._checked = True
        for name in self._aux_weights:
            if name not in losses and name not in AUX_WEIGHTS:
                known = ", ".join(losses) or "none"
                hint = did_you_mean(name, losses)
                raise OptionError(
                    f"train: aux_weights: the network has no auxiliary loss '{name}' (it has: {known}).{hint}"
                )
        for name in losses:
            if name not in self._aux_weights:
                get_root_logger().warning(
                    f"train: aux_weights names no weight for '{name}': it is logged as 0 and not trained on."
                )
