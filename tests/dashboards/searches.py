"""Histories of searches that never ran, for tests of what shows them."""

import numpy as np

from dashboards.history import CellHistory, History
from dashboards.pictures.cell_layout import cell_edges
from search_core.space.genotype import CELL_TYPES, PRIMITIVES, Edge, Genotype


def made_up_search(num_epochs=150, num_nodes=4, *, primitives=PRIMITIVES, seed=0, edges_per_node=None):
    """A search whose distributions sharpen; about a third of the edges vanish.

    Args:
        num_epochs: T, at least 1.
        num_nodes: B.
        primitives: candidate operations, all known ones.
        seed: of everything.
        edges_per_node: how many edges the derivation keeps per node, as DARTS does; None keeps all that is not none.
    """
    generator = np.random.default_rng(seed)
    progress = np.linspace(0, 1, num_epochs)
    cells = {cell_type: _cell(generator, progress, num_nodes, len(primitives)) for cell_type in CELL_TYPES}
    genotypes = [_derived(cells, epoch, num_nodes, primitives, edges_per_node).to_json() for epoch in range(num_epochs)]
    noise = generator.normal(size=(3, num_epochs))
    supernet, gap = 0.9 - 0.7 * np.exp(-4 * progress) + 0.01 * noise[0], 0.25 * np.exp(-3 * progress) + 0.01 * noise[1]
    metrics = {
        "entropy_normal": cells["normal"].entropy.sum(1).astype(float),
        "entropy_reduce": cells["reduce"].entropy.sum(1).astype(float),
        "temperature": 1 - 0.97 * progress,
        "eta": np.full(num_epochs, 1.6e-3),
        "expected_cost_madds": 3.1e8 - 1.9e8 * progress + 2e6 * noise[2],
        "discretization_gap": gap,
        "supernet_val_accuracy": supernet,
        "child_val_accuracy": np.maximum(0.1, supernet - gap),
    }
    return History(
        epochs=1 + np.arange(num_epochs), metrics=metrics, genotypes=genotypes, cells=cells, primitives=primitives
    )


def _cell(generator, progress, num_nodes, num_operations):
    num_edges = len(cell_edges(num_nodes))
    shape = (len(progress), num_edges, num_operations)
    target = generator.normal(size=shape[1:]) * 3
    target[generator.random(num_edges) < 0.35, 0] += 6
    wander = np.cumsum(generator.normal(size=shape), axis=0) * 0.05
    alpha = progress[:, None, None] ** 1.3 * target + wander
    weights = np.exp(alpha - alpha.max(-1, keepdims=True))
    probabilities = weights / weights.sum(-1, keepdims=True)
    entropy = -(probabilities * np.log(probabilities + 1e-30)).sum(-1)
    credit = generator.normal(size=shape[:2]) * 0.02 * (1.2 - progress[:, None])
    return CellHistory(
        **{
            name: array.astype(np.float32)
            for name, array in (
                ("alpha", alpha),
                ("probabilities", probabilities),
                ("entropy", entropy),
                ("credit", credit),
                ("resource_credit", -0.01 * probabilities[..., 1:].sum(-1)),
            )
        }
    )


def _derived(cells, epoch, num_nodes, primitives, edges_per_node):
    kept = {}
    for cell_type in CELL_TYPES:
        rows = cells[cell_type].probabilities[epoch]
        edges = [
            (float(row.max()), Edge(primitives[int(row.argmax())], *edge))
            for edge, row in zip(cell_edges(num_nodes), rows, strict=True)
        ]
        edges = [(share, edge) for share, edge in edges if edge.primitive != "none"]
        if edges_per_node is not None:
            ranked = sorted(edges, key=lambda item: -item[0])
            edges = [
                item
                for item in edges
                if [other for other in ranked if other[1].target == item[1].target].index(item) < edges_per_node
            ]
        kept[cell_type] = tuple(edge for _, edge in edges)
    concat = tuple(range(2, num_nodes + 2))
    return Genotype(kept["normal"], concat, kept["reduce"], concat)
