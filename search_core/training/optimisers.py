"""PyTorch's optimisers without its compiler, which their methods import, for 4 CPU seconds, to have it pass them by."""

from __future__ import annotations

from inspect import unwrap

import torch
from torch import Tensor
from torch.optim import Optimizer


class _Eager(Optimizer):
    add_param_group = unwrap(Optimizer.add_param_group)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    state_dict = unwrap(Optimizer.state_dict)
    zero_grad = unwrap(Optimizer.zero_grad)


class SGD(_Eager, torch.optim.SGD):
    """`torch.optim.SGD`, never compiled."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))

    @torch.no_grad()
    def step_by(self, lr: Tensor) -> None:
        """As `step`, by a learning rate on the weights' device, which the host need not know; rounded otherwise.

        For plain momentum, without dampening.
        """
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            moved: list[Tensor] | tuple[Tensor, ...] = [weight.grad for weight in weights]
            if group["weight_decay"]:
                moved = torch._foreach_add(moved, weights, alpha=group["weight_decay"])
            if group["momentum"]:
                momenta = [self._momentum_of(weight) for weight in weights]
                torch._foreach_mul_(momenta, group["momentum"])
                torch._foreach_add_(momenta, moved)
                moved = momenta
            torch._foreach_sub_(weights, torch._foreach_mul(moved, lr))

    def _momentum_of(self, weight: Tensor) -> Tensor:
        """That of 0 is as good as none yet, since there is no dampening."""
        state = self.state[weight]
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum_buffer"]
        return momentum


class Adam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam`, never compiled."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
