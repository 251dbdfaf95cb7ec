"""Controllers: exact probabilities by enumeration, sampling by chi-square, and plain loops as oracles."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from search_core.errors import OptionsError
from search_core.space.chain import ChainOptions
from search_core.space.chain_space import ChainSpace
from search_core.space.code_space import GenotypeSpace
from search_core.space.codes import genotype_space
from search_core.space.plan import NetworkOptions
from search_core.strategies.controller import ABSENT, Controller, Rollout, SequenceController
from search_core.strategies.controller_options import ControllerOptions
from search_core.strategies.multi_trial.chain_controller import ChainController
from search_core.strategies.multi_trial.rl_nas import AnchorController
from tests.search_core.tiny import differences, seeded, through_file

#: Large parameters, so that probabilities are far from uniform and decisions depend on those before.
OPTIONS = ControllerOptions(hidden=6, init=1.5)


def chains(layers: int) -> ChainSpace:
    chain = ChainOptions(heights=(1, 3), widths=(1,), filters=(4,) if layers == 2 else (4, 8, 16))
    return ChainSpace(NetworkOptions(space="nas_chain", nodes=layers, chain=chain))


def space_of(*primitives: str, nodes: int = 1) -> GenotypeSpace:
    return genotype_space(NetworkOptions(nodes=nodes, primitives=primitives))


CONTROLLERS: dict[str, Callable[[int], Controller]] = {
    "sequence": lambda seed: SequenceController(OPTIONS, (3, 3, 3, 3), seed=seed),
    "sequence-squashed": lambda seed: SequenceController(
        ControllerOptions(hidden=6, init=1.5, temperature=2.0, tanh_constant=1.5), (3, 3, 3, 3), seed=seed
    ),
    "sequence-of-unequal-choices": lambda seed: SequenceController(OPTIONS, (2, 3, 1, 3), seed=seed),
    "anchors": lambda seed: AnchorController(OPTIONS, space_of("skip_connect", "none", "sep_conv_3x3"), seed=seed),
    "anchors-one-operation": lambda seed: AnchorController(OPTIONS, space_of("none", "skip_connect"), seed=seed),
    "anchors-without-none": lambda seed: AnchorController(OPTIONS, space_of("skip_connect", "sep_conv_3x3"), seed=seed),
    "anchors-two-nodes": lambda seed: AnchorController(OPTIONS, space_of("none", "skip_connect", nodes=2), seed=seed),
    "chain": lambda seed: ChainController(OPTIONS, chains(2), seed=seed),
}
#: Parameters of anchors where all edges exist, and of operations where there is only one.
IDLE = {
    "anchors-without-none": {"attention.weight", "previous.weight", "current.weight"},
    "anchors-one-operation": {"weights", "biases"},
    "anchors-two-nodes": {"weights", "biases"},
}
every_controller = pytest.mark.parametrize("build", CONTROLLERS.values(), ids=list(CONTROLLERS))


def exact(controller: Controller) -> tuple[Rollout, Tensor]:
    """All sequences and their probabilities (N,), in float64."""
    codes = itertools.product(range(controller.num_choices), repeat=controller.num_decisions)
    rollout = controller.double().evaluate(torch.tensor(list(codes)))
    return rollout, rollout.log_prob.exp()


@every_controller
def test_probabilities_of_all_sequences_sum_to_one(build: Callable[[int], Controller]) -> None:
    rollout, probability_N = exact(build(0))
    torch.testing.assert_close(probability_N.sum(), torch.ones((), dtype=torch.double))
    torch.testing.assert_close(rollout.probabilities.sum(-1), torch.ones_like(rollout.log_probs))
    assert probability_N.max() > 2 * probability_N.mean()


@every_controller
def test_entropy_equals_enumeration(build: Callable[[int], Controller]) -> None:
    rollout, probability_N = exact(build(0))
    expected = -(probability_N * rollout.log_prob).sum()
    torch.testing.assert_close((probability_N * rollout.entropies.sum(-1)).sum(), expected)


@every_controller
def test_mean_of_conditional_probabilities_is_the_marginal(build: Callable[[int], Controller]) -> None:
    controller = build(0)
    rollout, probability_N = exact(controller)
    chosen_NTO = nn.functional.one_hot(rollout.codes, controller.num_choices).double()
    marginals_TO = torch.einsum("n,nto->to", probability_N, chosen_NTO)
    torch.testing.assert_close(torch.einsum("n,nto->to", probability_N, rollout.probabilities), marginals_TO)
    # A mean of 256 values in [0, 1] has a standard error of at most 1/32; 4 of them.
    torch.testing.assert_close(controller.marginals(), marginals_TO, rtol=0, atol=1 / 8)
    assert torch.equal(controller.marginals(), controller.marginals())


@every_controller
def test_sampling_follows_the_probabilities_by_chi_square(build: Callable[[int], Controller]) -> None:
    controller, num = build(0), 20_000
    drawn = controller.sample(num, seeded(1)).codes
    rollout, probability_N = exact(controller)
    place_values = controller.num_choices ** torch.arange(controller.num_decisions - 1, -1, -1)
    observed_N = torch.bincount((drawn * place_values).sum(-1), minlength=len(rollout.codes))
    expected_N = num * probability_N.detach()
    likely = expected_N >= 5  # the usual condition; the others make one class together
    observed = torch.cat([observed_N[likely], observed_N[~likely].sum().reshape(1)])
    expected = torch.cat([expected_N[likely], expected_N[~likely].sum().reshape(1)])[: len(observed)]
    statistic = ((observed - expected)[expected > 0].square() / expected[expected > 0]).sum().item()
    degrees = int((expected > 0).sum()) - 1
    # Mean `degrees`, variance 2 `degrees`: 4 standard deviations above, for a fixed seed.
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5


@every_controller
def test_evaluate_gives_what_sample_gave(build: Callable[[int], Controller]) -> None:
    controller = build(0)
    drawn = controller.sample(50, seeded(1))
    again = controller.evaluate(drawn.codes)
    assert torch.equal(drawn.codes, again.codes)
    for name in ("log_probs", "entropies", "probabilities"):
        torch.testing.assert_close(getattr(drawn, name), getattr(again, name))
    assert not drawn.log_probs.requires_grad
    assert again.log_probs.requires_grad


@pytest.mark.parametrize("name", list(CONTROLLERS))
def test_gradients_are_finite_and_reach_every_parameter_that_decides(name: str) -> None:
    controller = CONTROLLERS[name](0)
    rollout = controller.evaluate(controller.sample(50, seeded(1)).codes)
    (rollout.log_prob + rollout.entropies.sum(-1)).sum().backward()
    untouched = set()
    for key, parameter in controller.named_parameters():
        if parameter.grad is None or not parameter.grad.any():
            untouched.add(key)
        else:
            assert parameter.grad.isfinite().all(), key
    assert untouched == IDLE.get(name, set())


@every_controller
def test_seed_decides_the_parameters_and_global_random_state_is_left_alone(build: Callable[[int], Controller]) -> None:
    before = torch.get_rng_state()
    first, same, other = build(0), build(0), build(1)
    assert differences(first.state_dict(), same.state_dict()) == []
    assert len(differences(first.state_dict(), other.state_dict())) == len(first.state_dict())
    assert torch.equal(first.sample(9, seeded(2)).codes, same.sample(9, seeded(2)).codes)
    assert torch.equal(before, torch.get_rng_state())


def test_state_goes_through_a_file() -> None:
    first, other = CONTROLLERS["anchors"](0), CONTROLLERS["anchors"](1)
    other.load_state_dict(through_file(first.state_dict()))
    assert differences(first.state_dict(), other.state_dict()) == []


def test_scale_of_logits() -> None:
    logits = torch.tensor([-5.0, 0.0, 5.0])
    assert torch.equal(ControllerOptions().scaled(logits), logits)
    assert torch.equal(ControllerOptions(temperature=5.0).scaled(logits), torch.tensor([-1.0, 0.0, 1.0]))
    expected = torch.tensor([-1.9039854, 0.0, 1.9039854])  # 2.5 tanh(1)
    torch.testing.assert_close(ControllerOptions(temperature=5.0, tanh_constant=2.5).scaled(logits), expected)


def test_sequence_controller_equals_plain_loop() -> None:
    controller = SequenceController(OPTIONS, (3, 3, 3, 3), seed=0).double()
    code = [2, 0, 1, 1]
    read, state, expected = controller.start, (torch.zeros(6).double(), torch.zeros(6).double()), []
    for step, choice in enumerate(code):
        state = plain_lstm(controller.lstm, read, state)
        logits = [
            state[0] @ controller.weights[step, :, option] + controller.biases[step, option] for option in range(3)
        ]
        expected.append(logits[choice] - torch.stack(logits).logsumexp(0))
        read = controller.embeddings[step, choice]
    torch.testing.assert_close(controller.evaluate(torch.tensor([code])).log_probs[0], torch.stack(expected))


@pytest.mark.parametrize("code", [(0, 2, 1, 2, 1, 2, 2, 1, 1, 0), (1, 1, 1, 1, 1, 0, 0, 2, 0, 0)])
def test_anchor_controller_equals_plain_loop(code: tuple[int, ...]) -> None:
    space = space_of("skip_connect", "none", "sep_conv_3x3", nodes=2)
    controller = AnchorController(OPTIONS, space, seed=0).double()
    none, options = 1, (0, 2)
    state, expected, step = (torch.zeros(6).double(), torch.zeros(6).double()), [], 0
    for start in controller.start:
        read, anchors = start, []
        for node in range(4):
            state = plain_lstm(controller.lstm, read, state)
            anchor = state[0]
            if node >= 2:
                sources = range(node)
                exists = [code[step + source] != none for source in sources]
                connections = []
                for source in sources:
                    mixed = torch.tanh(
                        controller.previous.weight @ anchors[source] + controller.current.weight @ anchor
                    )
                    probability = torch.sigmoid(controller.attention.weight[0] @ mixed)
                    connections.append(torch.log(probability if exists[source] else 1 - probability))
                chosen = [anchors[source] for source in sources if exists[source]]
                read = sum(chosen, torch.zeros(6).double()) / (1 + len(chosen))
                for source in sources:
                    log_prob = connections[source]
                    if exists[source]:
                        state = plain_lstm(controller.lstm, read, state)
                        logits = {
                            o: state[0] @ controller.weights[step, :, o] + controller.biases[step, o] for o in options
                        }
                        log_prob = log_prob + logits[code[step]] - torch.stack(list(logits.values())).logsumexp(0)
                        read = controller.embeddings[step, code[step]]
                    expected.append(log_prob)
                    step += 1
            anchors.append(anchor)
    # In a batch with another sequence, whose steps differ.
    other = tuple(2 - choice for choice in code)
    torch.testing.assert_close(controller.evaluate(torch.tensor([other, code])).log_probs[1], torch.stack(expected))


@pytest.mark.parametrize("code", [(1, 2, 0, 0, 1, 1, 0, 1, 2), (0, 0, 1, 1, 0, 1, 1, 0, 1)])
def test_chain_controller_equals_plain_loop(code: tuple[int, ...]) -> None:
    """Layers of 2 heights and 3 numbers of filters; in a batch with a sequence of two layers only."""
    controller = ChainController(OPTIONS, chains(3), seed=0).double()
    states = [(torch.zeros(6).double(), torch.zeros(6).double())] * 2
    read, anchors, expected, choices = controller.start, [], [], iter(code)

    def step() -> Tensor:
        states[0] = plain_lstm(controller.lstm[0], read, states[0])
        states[1] = plain_lstm(controller.lstm[1], states[0][0], states[1])
        return states[1][0]

    for _ in range(3):
        anchor, chosen = step(), []
        for earlier in anchors:
            mixed = torch.tanh(controller.previous.weight @ earlier + controller.current.weight @ anchor)
            probability = torch.sigmoid(controller.attention.weight[0] @ mixed)
            is_read = next(choices)
            expected.append(torch.log(probability if is_read else 1 - probability))
            chosen += [earlier] * is_read
        read = sum(chosen, torch.zeros(6).double()) / (1 + len(chosen))
        anchors.append(anchor)
        for softmax, embedding in zip(controller.softmaxes, controller.embeddings, strict=True):
            logits, choice = softmax.weight @ step() + softmax.bias, next(choices)
            expected.append(logits[choice] - logits.logsumexp(0))
            read = embedding.weight[choice]
    short = (1, 1, 0, 1, 1)
    padded = torch.tensor([(*short, *[ABSENT] * 4), code])
    both, alone = controller.evaluate(padded), controller.evaluate(torch.tensor([short]))
    torch.testing.assert_close(both.log_probs[1], torch.stack(expected))
    assert both.as_codes() == [short, code]
    for name in ("log_probs", "entropies"):
        torch.testing.assert_close(
            getattr(both, name)[0], torch.cat([getattr(alone, name)[0], torch.zeros(4)]).double()
        )


def test_chain_controller_emits_as_many_layers_as_its_depth() -> None:
    controller = ChainController(OPTIONS, chains(3), seed=0)
    shallow = []
    for depth, length in ((1, 2), (2, 5), (3, 9)):
        controller.depth = depth
        assert controller.sample(4, seeded()).codes.shape == (4, length)
        shallow.append(controller.shares(chains(3))["normal"])
    assert shallow[0][2:, 0].min() == 1, "nothing is read by layers that are not there"
    assert shallow[2][2:, 0].min() < 1


def plain_lstm(lstm: nn.LSTMCell, read: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Hochreiter and Schmidhuber's cell with a forget gate, gates in torch's order: input, forget, new, output."""
    gates = lstm.weight_ih @ read + lstm.bias_ih + lstm.weight_hh @ state[0] + lstm.bias_hh
    enter, forget, new, out = gates.chunk(4)
    cell = forget.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
    return out.sigmoid() * cell.tanh(), cell


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 0}, "`hidden` must be at least 1, got 0"),
        ({"init": 0.0}, "`init` must be above 0, got 0.0"),
        ({"lr": float("inf")}, "`lr` must be above 0, got inf"),
        ({"temperature": 0.0}, "`temperature` must be above 0, got 0.0"),
        ({"tanh_constant": -1.0}, "`tanh_constant` must be above 0, got -1.0"),
        ({"entropy": -0.1}, "`entropy` must be at least 0, got -0.1"),
        ({"baseline_decay": 1.0}, r"`baseline_decay` must be in \[0, 1\), got 1.0"),
    ],
)
def test_options_out_of_range_are_errors(changes: dict[str, float], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        ControllerOptions(**changes)  # type: ignore[arg-type]
