from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from search_core.recurrent.model import LanguageModel
from search_core.recurrent.options import DropoutOptions, language_model_cost
from search_core.recurrent.training import window_loss
from search_core.space.recurrent import ACTIVATIONS, PUBLISHED_RECURRENT, RecurrentGenotype, RecurrentNode

VOCABULARY, HIDDEN, NODES, BATCH = 7, 5, 3, 4
CELL = RecurrentGenotype(
    (RecurrentNode("relu", 0), RecurrentNode("identity", 0), RecurrentNode("sigmoid", 2)), (1, 2, 3)
)


def one_hot(genotype: RecurrentGenotype) -> Tensor:
    """Weights Z (E, O) that give each node the state and activation of the genotype."""
    z, row = torch.zeros(NODES * (NODES + 1) // 2, len(ACTIVATIONS)), 0
    for position, (activation, source) in enumerate(genotype.recurrent):
        z[row + source, ACTIVATIONS.index(activation)] = 1
        row += position + 1
    return z


def text(steps: int = 4) -> tuple[Tensor, Tensor]:
    words = torch.randint(VOCABULARY, (steps + 1, BATCH), generator=torch.Generator().manual_seed(0))
    return words[:-1], words[1:]


@pytest.mark.usefixtures("float64")
def test_step_of_a_cell_follows_the_published_equations() -> None:
    model = LanguageModel(VOCABULARY, HIDDEN, NODES)
    (words, _), h = text(1), torch.rand(BATCH, HIDDEN)
    c, new = (torch.cat([model.embedding[words[0]], h], 1) @ model.first).split(HIDDEN, 1)
    states = [h + c.sigmoid() * (new.tanh() - h)]
    functions = {"relu": torch.relu, "sigmoid": torch.sigmoid, "identity": lambda x: x}
    for (activation, source), product in zip(CELL.recurrent, model.products, strict=True):
        c, new = (states[source] @ product).split(HIDDEN, 1)
        states.append(states[source] + c.sigmoid() * (functions[activation](new) - states[source]))
    output = (states[1] + states[2] + states[3]) / 3
    logits, outputs = model(words, h, CELL)
    torch.testing.assert_close(outputs[0], output)
    torch.testing.assert_close(logits[0], output @ model.embedding.t() + model.bias)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("batch_norm", [False, True])
def test_searchable_cell_of_a_one_hot_sample_is_the_child_with_its_gradients(batch_norm: bool) -> None:
    model = LanguageModel(VOCABULARY, HIDDEN, NODES, batch_norm=batch_norm)
    dropout, start = DropoutOptions(words=0.2, input=0.3), torch.rand(BATCH, HIDDEN)
    masks = model.masks(BATCH, dropout, torch.Generator().manual_seed(1))
    found = []
    for architecture in (one_hot(CELL), CELL):
        loss, _ = window_loss(model, text(), start, architecture, masks)
        found.append([loss, *torch.autograd.grad(loss, list(model.parameters()))])
    assert all(float(gradient.detach().abs().sum()) > 0 for gradient in found[1])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.usefixtures("float64")
def test_state_is_carried_through_windows_as_if_they_were_one() -> None:
    model, (words, _) = LanguageModel(VOCABULARY, HIDDEN, NODES), text(6)
    whole, _ = model(words, model.start(BATCH), CELL)
    first, outputs = model(words[:4], model.start(BATCH), CELL)
    second, _ = model(words[4:], outputs[-1].detach(), CELL)
    torch.testing.assert_close(torch.cat([first, second]), whole)


def test_dropout_is_one_mask_for_all_steps_of_a_window_and_keeps_the_mean() -> None:
    model = LanguageModel(50, 400, 1)
    masks = model.masks(3, DropoutOptions(words=0.5, hidden=0.0), torch.Generator().manual_seed(0))
    assert masks.hidden == 1.0
    assert isinstance(masks.input, Tensor)
    assert isinstance(masks.words, Tensor)
    assert masks.words.shape == (50, 1)
    assert set(masks.words.unique().tolist()) == {0.0, 2.0}
    assert masks.input.shape == (3, 400)
    assert masks.input.mean().item() == pytest.approx(1, abs=0.2)  # five standard errors of 1,200 draws
    words = torch.zeros(5, 3, dtype=torch.int64)
    cell = RecurrentGenotype((RecurrentNode("identity", 0),), (1,))
    _, outputs = model(words, model.start(3), cell, masks)
    kept = [torch.autograd.grad(outputs[step].sum(), model.first, retain_graph=True)[0] for step in range(5)]
    rows = [gradient[:400].abs().sum(1) > 0 for gradient in kept]
    assert not rows[0].all()
    assert all(torch.equal(a, b) for a, b in pairwise(rows))


@pytest.mark.parametrize(("name", "nodes"), [("DARTS_V1", 8), ("DARTS_V2", 8), ("ENAS", 11)])
def test_counts_are_those_of_the_weights(name: str, nodes: int) -> None:
    genotype = PUBLISHED_RECURRENT[name]
    assert len(genotype.recurrent) == nodes
    model = LanguageModel(VOCABULARY, HIDDEN, nodes)
    cost = language_model_cost(VOCABULARY, HIDDEN, nodes)
    assert cost.params == sum(weight.numel() for weight in model.parameters())
    assert cost.madds == sum(weight.numel() for weight in model.parameters() if weight.dim() == 2)
    logits, _ = model(*text()[:1], model.start(BATCH), genotype)
    assert logits.shape == (4, BATCH, VOCABULARY)


def test_darts_on_penn_treebank_has_23_million_parameters() -> None:
    """Table 2 of DARTS has 23 M: 10,000 x 850 shared, 10,000 biases, 1,700 x 1,700 and eight times 850 x 1,700."""
    assert language_model_cost(10_000, 850, 8).params == 8_500_000 + 10_000 + 2_890_000 + 8 * 1_445_000 == 22_960_000
