"""The child network of a genotype: trained from scratch, or with weights inherited from the supernet."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from search_core.errors import GenotypeError
from search_core.network.blocks import AuxiliaryHead, CellInputs, Classifier, build_stem
from search_core.network.choice_blocks import keep_statistics, narrowed
from search_core.network.quantisation import quantise_inputs, with_quantised_weights
from search_core.network.search_cell import SearchCell
from search_core.network.supernet import Supernet
from search_core.primitives.modules import ReluConvBn
from search_core.primitives.registry import find
from search_core.randomness import seeded_weights
from search_core.ranks import ALONE, Ranks
from search_core.space.choices import Bits, CellChoices
from search_core.space.genotype import CELL_TYPES, POOLS, CellType, Genotype, has_pool_norm
from search_core.space.plan import CellPlan, NetworkOptions, NetworkSize, edges_by_source, plan_child


def drop_path(x: Tensor, probability: float, generator: torch.Generator, ranks: Ranks = ALONE) -> Tensor:
    """Zero whole images of x (N, C, H, W) with `probability` and scale the others by 1 / (1 - probability).

    (Larsson et al., ICLR 2017; as in DARTS.) If x is one rank's share, numbers are drawn for the whole batch.
    """
    drawn = torch.rand((x.shape[0] * ranks.count, 1, 1, 1), device=x.device, generator=generator)
    keep = ranks.share(drawn) >= probability
    return x * keep / (1 - probability)


class ChildCell(nn.Module):
    """One cell with one operation per kept edge. A node without kept edges is zeros.

    Stacked nodes have a module in `joins` that brings them back to the channels of a node.
    """

    def __init__(self, plan: CellPlan, genotype: Genotype, *, affine: bool, pool_norm: bool) -> None:
        super().__init__()
        self.plan = plan
        self.kept = genotype.edges(plan.cell_type)
        self.concat = genotype.concat(plan.cell_type)
        self.num_nodes = genotype.num_nodes(plan.cell_type)
        self.inputs = CellInputs(plan, affine=affine)
        self.operations = nn.ModuleList(
            _kept_operation(edge.primitive, plan.channels, plan.edge_geometry(edge.source)[1], affine, pool_norm)
            for edge in self.kept
        )
        targets = Counter(edge.target for edge in self.kept)
        self.joins = nn.ModuleDict(
            {
                str(node): ReluConvBn(targets[node] * plan.channels, plan.channels, affine=affine)
                for node in genotype.stacked(plan.cell_type)
            }
        )

    def forward(
        self,
        before_previous: Tensor,
        previous: Tensor,
        drop_path_prob: float,
        generator: torch.Generator | None,
        ranks: Ranks = ALONE,
        scales: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Concatenation of the nodes in `concat`, (N, len(concat) * channels, *size_out).

        `scales` (a scalar per kept edge) multiply the outputs of the operations.
        """
        nodes: dict[int, Tensor] = dict(enumerate(self.inputs(before_previous, previous)))
        incoming = defaultdict(list)
        factors = [None] * len(self.kept) if scales is None else scales
        for edge, operation, factor in zip(self.kept, self.operations, factors, strict=True):
            incoming[edge.target].append((edge.source, operation, factor))
        for target in range(2, self.num_nodes + 2):
            terms = []
            for source, operation, factor in incoming[target]:
                term = operation(nodes[source])
                term = term if factor is None else term * factor
                if drop_path_prob > 0 and not isinstance(operation, nn.Identity):
                    assert generator is not None, "drop path needs a generator"
                    term = drop_path(term, drop_path_prob, generator, ranks)
                terms.append(term)
            nodes[target] = self._joined(target, terms) if terms else self._zeros(nodes[0])
        return torch.cat([nodes[node] for node in self.concat], dim=1)

    def _joined(self, node: int, terms: list[Tensor]) -> Tensor:
        if str(node) in self.joins:
            stacked: Tensor = self.joins[str(node)](torch.cat(terms, dim=1))
            return stacked
        return sum(terms[1:], terms[0])

    def _zeros(self, like: Tensor) -> Tensor:
        """A node without inputs; in the layout of the others, or all that follows would lose it and run slower."""
        size = (like.shape[0], self.plan.channels, *self.plan.size_out)
        return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last).zero_()


def _kept_operation(primitive: str, channels: int, stride: int, affine: bool, pool_norm: bool) -> nn.Module:
    operation = find(primitive).module(channels, stride, affine)
    if not pool_norm and primitive in POOLS:
        pool: nn.Module = operation.get_submodule("pool")
        return pool
    return operation


class Child(nn.Module):
    """Network of a genotype (SNAS section 4.2).

    Args:
        genotype: the architecture; nodes that lost all inputs and unused cell inputs are fine.
        size: cells, channels, stem, images and classes.
        auxiliary: whether to build the auxiliary head.
        affine: whether batch norms have a scale and a shift (True from scratch, False with inherited weights).
        pool_norm: whether batch norm follows pools; default as the genotype was published, see `has_pool_norm`.
        cell_channels: channels of every cell's nodes, even numbers; default: doubled by reduction cells.
        bits: widths of every cell; weights are kept in full precision and quantised in each pass. Default: none is.
        seed: seed of the initial weights.
    """

    def __init__(
        self,
        genotype: Genotype,
        size: NetworkSize,
        *,
        auxiliary: bool = False,
        affine: bool = True,
        pool_norm: bool | None = None,
        cell_channels: Sequence[int] | None = None,
        bits: Sequence[Bits] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.genotype = genotype
        self.plan = plan_child(genotype, size, cell_channels)
        self.bits = (Bits(),) * len(self.plan.cells) if bits is None else tuple(bits)
        pool_norm = has_pool_norm(genotype) if pool_norm is None else pool_norm
        with seeded_weights(seed):
            self.stem = build_stem(self.plan)
            self.cells = nn.ModuleList(
                ChildCell(cell, genotype, affine=affine, pool_norm=pool_norm) for cell in self.plan.cells
            )
            self.classifier = Classifier(self.plan.out_channels, size.num_classes)
            self.auxiliary = AuxiliaryHead(self.plan.auxiliary_channels, size.num_classes) if auxiliary else None
        for own, width in zip(self.cells, self.bits, strict=True):
            quantise_inputs(own, width.features)

    def forward(self, images: Tensor, scales: Mapping[CellType, Sequence[Tensor]] | None = None) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W); `scales` as in `forward_with_auxiliary`."""
        return self.forward_with_auxiliary(images, scales=scales)[0]

    def forward_with_auxiliary(
        self,
        images: Tensor,
        drop_path_prob: float = 0.0,
        generator: torch.Generator | None = None,
        ranks: Ranks = ALONE,
        scales: Mapping[CellType, Sequence[Tensor]] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Logits of both classifiers, each (N, classes); the second only in training mode and if it was built.

        Args:
            images: (N, C, H, W).
            drop_path_prob: in [0, 1); never applied to identity edges.
            generator: source of the drop path's randomness, on the images' device; needed for drop path.
            ranks: whose equal share of a batch the images are.
            scales: factors of the kept edges' outputs per cell type, in the order of the genotype.
        """
        before_previous, previous = self.stem(images.contiguous(memory_format=torch.channels_last))
        auxiliary_logits = None
        for index, (plan, cell) in enumerate(zip(self.plan.cells, self.cells, strict=True)):
            of_cell = None if scales is None else scales[plan.cell_type]
            inputs = (before_previous, previous, drop_path_prob, generator, ranks, of_cell)
            output = with_quantised_weights(cell, self.bits[index].weights, *inputs)
            before_previous, previous = previous, output
            if index == self.plan.auxiliary_cell and self.auxiliary is not None and self.training:
                auxiliary_logits = self.auxiliary(previous)
        return self.classifier(previous), auxiliary_logits


def inherit_child(supernet: Supernet, genotype: Genotype, choices: CellChoices | None = None) -> Child:
    """Child network with a copy of the supernet's weights and batch norm statistics; nothing is trained.

    Args:
        supernet: the searchable network; it is not changed.
        genotype: an architecture of its search space: every node concatenated, or with `space` enas the loose ends.
        choices: channels and bits of every cell; default: all channels in full precision. Statistics fit neither fewer
            channels nor fewer bits until they are recomputed.

    Raises:
        GenotypeError: if the genotype has edges or operations that the supernet does not have, or concatenates other
            nodes.
    """
    child = _frame_of(supernet, genotype, choices)
    state = _state_of(child, _slices(supernet, child), choices)
    copies = {name: x.detach().clone(memory_format=torch.contiguous_format) for name, x in state.items()}
    child.load_state_dict(copies, assign=True)
    return child.train(supernet.training)


def discretised_forward(
    supernet: Supernet,
    genotype: Genotype,
    images: Tensor,
    choices: CellChoices | None = None,
    *,
    scales: Mapping[CellType, Sequence[Tensor]] | None = None,
    replaced: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Logits (N, classes) of the supernet with one operation per edge; the others are not computed.

    It equals `supernet(images, z)` with one-hot Z, but for rounding: the weights are the supernet's own, gradients
    reach them, and in training their running statistics move.

    Args:
        supernet: the searchable network.
        genotype: as for `inherit_child`.
        images: (N, C, H, W).
        choices: as for `inherit_child`.
        scales: factors of the kept edges' outputs per cell type, in the order of the genotype; 1 without.
        replaced: weights in place of the supernet's, by their names in the child.

    Raises:
        GenotypeError: as `inherit_child`.
    """
    child = _frame_of(supernet, genotype, choices)
    slices = _slices(supernet, child)
    state = {**_state_of(child, slices, choices), **(replaced or {})}
    child.train(supernet.training)
    logits: Tensor = torch.func.functional_call(child, state, (images, scales))
    if choices is not None and supernet.training:
        keep_statistics(slices, state)
    return logits


def _state_of(child: Child, slices: dict[str, Tensor], choices: CellChoices | None) -> dict[str, Tensor]:
    """The state of a child from the supernet's slices: with choices cut to its channels.

    How many batches its norms have followed begins at 0: the supernet's stacked ones do not count.
    """
    device = slices["classifier.linear.bias"].device
    names = [name for name in child.state_dict() if name.endswith("num_batches_tracked")]
    counts = {name: torch.zeros((), dtype=torch.long, device=device) for name in names}
    cut = slices if choices is None else narrowed(slices, child, child.genotype.num_nodes("normal"))
    return {**counts, **cut}


def _frame_of(supernet: Supernet, genotype: Genotype, choices: CellChoices | None) -> Child:
    """A child of the supernet's size without weights."""
    _check_genotype(genotype, supernet.options)
    with torch.device("meta"):
        return Child(
            genotype,
            supernet.plan.size,
            affine=False,
            pool_norm=True,
            cell_channels=None if choices is None else choices.channels(supernet.plan.cells),
            bits=None if choices is None else choices.bits,
        )


def _check_genotype(genotype: Genotype, options: NetworkOptions) -> None:
    concat = tuple(range(2, options.nodes + 2))
    edges = set(edges_by_source(options.nodes))
    for cell_type in CELL_TYPES:
        if options.space == "darts" and genotype.concat(cell_type) != concat:
            raise GenotypeError(
                f"{cell_type}_concat: must be {concat}, the nodes of the supernet, got {genotype.concat(cell_type)}"
            )
        if not set(genotype.concat(cell_type)) <= set(concat) or genotype.stacked(cell_type):
            raise GenotypeError(f"{cell_type}: the supernet has the nodes {concat}, none of them stacked")
        for edge in genotype.edges(cell_type):
            if (edge.source, edge.target) not in edges or edge.primitive not in options.operations:
                raise GenotypeError(f"the supernet has no {edge.primitive} on the edge {edge.source} -> {edge.target}")


def _slices(supernet: Supernet, child: Child) -> dict[str, Tensor]:
    """The supernet's weights and statistics under the child's names: slices, not copies.

    All edges of a source share the statistics of a pool. The first edge has them, others a copy: one batch, one move.
    So do two equal operations on one edge, which share weights too (ENAS has weights for each input of a node). What
    reads a cell of which not all nodes are the output has the columns of the others left out, as in ENAS (section 2.3).
    """
    slices = {f"stem.{name}": value for name, value in _state(supernet.stem).items()}
    cells = child.plan.cells
    last = _columns(_state(supernet.classifier), cells[-1], child.genotype, supernet.options.nodes)
    slices |= {f"classifier.{name}": value for name, value in last.items()}
    positions = {edge: position for position, edge in enumerate(edges_by_source(supernet.options.nodes))}
    for index, (child_cell, search_cell) in enumerate(zip(child.cells, supernet.cells, strict=True)):
        assert isinstance(child_cell, ChildCell)
        assert isinstance(search_cell, SearchCell)
        for part, back in (("before_previous", 2), ("previous", 1)):
            own = _state(search_cell.inputs.get_submodule(part))
            if index >= back:
                own = _columns(own, cells[index - back], child.genotype, supernet.options.nodes)
            slices |= {f"cells.{index}.inputs.{part}.{name}": value for name, value in own.items()}
        seen = set()
        for number, (edge, operation) in enumerate(zip(child_cell.kept, child_cell.operations, strict=True)):
            if operation.state_dict():  # an identity has nothing
                own = search_cell.weights_of(edge.primitive, positions[edge.source, edge.target])
                shared = (edge.primitive, edge.source, None if edge.primitive in POOLS else edge.target)
                if shared in seen:
                    own = {name: value.clone() for name, value in own.items()}
                seen.add(shared)
                slices |= {f"cells.{index}.operations.{number}.{name}": value for name, value in own.items()}
    return slices


def _columns(weights: dict[str, Tensor], read: CellPlan, genotype: Genotype, num_nodes: int) -> dict[str, Tensor]:
    """Weights of what reads a cell's output, without the columns of nodes that the genotype does not concatenate."""
    concat = genotype.concat(read.cell_type)
    if concat == tuple(range(2, num_nodes + 2)):
        return weights
    return {
        name: torch.cat([weight.tensor_split(num_nodes, 1)[node - 2] for node in concat], 1)
        if weight.dim() > 1
        else weight
        for name, weight in weights.items()
    }


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers themselves; `state_dict` would give them without gradient."""
    return dict([*module.named_parameters(), *module.named_buffers()])
