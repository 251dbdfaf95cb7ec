"""The searchable network: a stack of cells whose edges mix all candidate operations.

Shape suffixes: E edges, O operations, L cells of one type, N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from search_core.network.blocks import AuxiliaryHead, Classifier, FrozenNorms, build_stem
from search_core.network.cell_sources import DropPath
from search_core.network.search_cell import SearchCell
from search_core.randomness import seeded_weights
from search_core.space.genotype import CellType
from search_core.space.plan import NetworkSize, cell_edges, plan_supernet


class Supernet(nn.Module):
    """Stack of searchable cells with shared architecture weights (SNAS section 4.1).

    The parameters of this module are theta alone; the architecture sample Z comes in with every forward.

    Args:
        size: of the network, with its candidate operations.
        seed: seed of the initial weights.
        auxiliary: whether to build the auxiliary head.
    """

    def __init__(self, size: NetworkSize, *, seed: int, auxiliary: bool = False) -> None:
        super().__init__()
        self.options = size.network
        self.plan = plan_supernet(size)
        with seeded_weights(seed):
            self.stem = build_stem(self.plan)
            self.cells = nn.ModuleList(SearchCell(cell, self.options) for cell in self.plan.cells)
            self.classifier = Classifier(self.plan.out_channels, size.num_classes)
            self.auxiliary = AuxiliaryHead(self.plan.auxiliary_channels, size.num_classes) if auxiliary else None

    def num_cells(self, cell_type: CellType) -> int:
        """Number of cells of one type in the stack."""
        return sum(cell.cell_type == cell_type for cell in self.plan.cells)

    def forward(
        self,
        images: Tensor,
        z: Mapping[CellType, Tensor],
        drop_path_prob: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W); arguments as in `forward_with_auxiliary`."""
        return self.forward_with_auxiliary(images, z, drop_path_prob, generator)[0]

    def forward_with_auxiliary(
        self,
        images: Tensor,
        z: Mapping[CellType, Tensor],
        drop_path_prob: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of both classifiers, each (N, classes); the second only in training mode and if it was built.

        Args:
            images: normalised images.
            z: architecture weights per cell type, (E, O) for all its cells or (L, E, O) one per cell.
            drop_path_prob: in [0, 1): chance of an operation to be left out for an image; never identities.
            generator: source of the drop path's randomness, on the images' device; needed for drop path. One draw a
                cell, of shape (E, O, N).
        """
        remaining = {
            cell_type: iter(z_EO.expand(self.num_cells(cell_type), -1, -1) if z_EO.dim() == 2 else z_EO)
            for cell_type, z_EO in z.items()
        }
        before_previous, previous = self.stem(images.contiguous(memory_format=torch.channels_last))
        auxiliary_logits, recomputes = None, self.options.recompute and torch.is_grad_enabled()
        for index, (plan, cell) in enumerate(zip(self.plan.cells, self.cells, strict=True)):
            drop_path = None
            if drop_path_prob > 0:
                assert generator is not None, "drop path needs a generator"
                drop_path = self._draw(len(images), drop_path_prob, generator)
            inputs = (before_previous, previous, next(remaining[plan.cell_type]), drop_path)
            output = self._recomputed(cell, *inputs) if recomputes else cell(*inputs)
            before_previous, previous = previous, output
            if index == self.plan.auxiliary_cell and self.auxiliary is not None and self.training:
                auxiliary_logits = self.auxiliary(previous)
        return self.classifier(previous), auxiliary_logits

    @contextmanager
    def frozen_statistics(self) -> Iterator[None]:
        """Leave all running statistics alone inside, bit for bit; in training batches still have their own."""
        with ExitStack() as frozen:
            frozen.enter_context(FrozenNorms(self.stem))
            for cell in self.cells:
                assert isinstance(cell, SearchCell)
                frozen.enter_context(cell.frozen_statistics())
            yield

    def _draw(self, num_images: int, probability: float, generator: torch.Generator) -> DropPath:
        shape = (len(cell_edges(self.options.nodes)), len(self.options.primitives), num_images)
        dtype = self.classifier.linear.weight.dtype
        draw_EON = torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
        return DropPath(draw_EON >= probability, 1 / (1 - probability))

    def _recomputed(
        self, cell: nn.Module, before_previous: Tensor, previous: Tensor, z_EO: Tensor, drop_path: DropPath | None
    ) -> Tensor:
        """The cell's output; what its backward pass needs is computed again there, in place of being kept."""
        assert isinstance(cell, SearchCell)
        output: Tensor = checkpoint(
            cell,
            before_previous,
            previous,
            z_EO,
            drop_path,
            use_reentrant=False,
            preserve_rng_state=False,  # all randomness comes in as arguments
            context_fn=lambda: (nullcontext(), cell.frozen_statistics()),  # of the first time and of the second
        )
        return output
