"""PyTorch's optimisers without its compiler, which their methods import, for 4 CPU seconds, to have it pass them by."""

from __future__ import annotations

from inspect import unwrap

import torch
from torch.optim import Optimizer


class _Eager(Optimizer):
    add_param_group = unwrap(Optimizer.add_param_group)
    load_state_dict = unwrap(Optimizer.load_state_dict)
    state_dict = unwrap(Optimizer.state_dict)
    zero_grad = unwrap(Optimizer.zero_grad)


class SGD(_Eager, torch.optim.SGD):
    """`torch.optim.SGD`, never compiled."""

    step = torch.no_grad()(unwrap(torch.optim.SGD.step))


class Adam(_Eager, torch.optim.Adam):
    """`torch.optim.Adam`, never compiled."""

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
