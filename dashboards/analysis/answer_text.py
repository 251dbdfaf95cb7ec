"""The answer of a study in words, the same in the terminal, in MLflow and on its page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dashboards.formatting import counted, metric_name, percent_with_interval, shown_metric, shown_number

if TYPE_CHECKING:  # a command's help does not wait for NumPy
    from dashboards.analysis.answer import Answer, Pick
    from dashboards.analysis.noise import Estimate

_MOST_NAMED = 5


def answer_words(answer: Answer) -> str:
    """Which cell to keep, what the most accurate and the cheapest are, and which eta to use: a few sentences."""
    keep = answer.keep
    begin = "Keep" if answer.is_over else "So far: keep"
    sentences = [
        f"{begin} trial {keep.trial}{role_words(keep, ', ')}: {settings_words(answer, keep)}, {error_name(answer)} "
        f"{percent_with_interval(keep.error.value, keep.error.interval)}, {cost_words(answer, keep)}.",
        *(other_words(answer, pick) for pick in answer.picks[1:]),
    ]
    if answer.close:
        named = len(answer.close) <= _MOST_NAMED
        these = ", ".join(map(str, answer.close)) if named else f"{len(answer.close):,} of {answer.compared:,} cells"
        plural = "s" if len(answer.close) > 1 else ""
        sentences.append(f"Inside the noise of its error, too: {f'trial{plural} ' if named else ''}{these}.")
    if answer.etas is not None:
        sentences.append(etas_words(answer.etas))
    if not answer.is_tested:
        sentences.append("Two cells must be retrained before test errors can say more.")
    return " ".join(sentences)


def role_words(pick: Pick, before: str = "") -> str:
    """What a cell is on the front, such as `the knee of the front and the most accurate`; empty if it is nothing."""
    long = {"knee": "knee of the front", "as good": "cheapest that is as good as the most accurate within the noise"}
    names = [f"the {long.get(role, role)}" for role in pick.roles]
    return before + " and ".join(names) if names else ""


def settings_words(answer: Answer, pick: Pick) -> str:
    """Penalty strength and temperature schedule of a pick, and the strategy where there are several."""
    parts = [pick.strategy] if answer.strategies > 1 else []
    parts += [] if pick.eta is None else [f"η {shown_number(pick.eta)}"]
    return ", ".join((*parts, pick.schedule))


def cost_words(answer: Answer, pick: Pick) -> str:
    """Cost of a pick, with what is counted."""
    amount = shown_metric(answer.cost_metric, pick.cost)
    return amount if answer.cost_metric == "child_latency_ms" else f"{amount} {metric_name(answer.cost_metric)}"


def error_name(answer: Answer) -> str:
    """Which error is compared."""
    return "test error" if answer.is_tested else "child error"


def other_words(answer: Answer, pick: Pick) -> str:
    """How another pick compares with the cell to keep."""
    ratio = f" and {pick.cost / answer.keep.cost:.2g} times the {metric_name(answer.cost_metric)}"
    amount = ratio if answer.keep.cost > 0 else ""
    error = shown_metric("child_val_error", pick.error.value)
    return f"Trial {pick.trial}{role_words(pick, ', ')}, has {error}{amount}{noise_words(answer, pick, ': ')}."


def noise_words(answer: Answer, pick: Pick, before: str = "") -> str:
    """Whether the error of a pick differs from that of the cell to keep beyond the noise; empty if it is not known."""
    if pick.differs is None:
        return ""
    if pick.differs:
        return f"{before}{'better' if pick.error.value < answer.keep.error.value else 'worse'} beyond the noise"
    own, kept = (_wrong(entry.error) for entry in (pick, answer.keep))
    counts = f", {own} against {kept} wrong of {pick.error.images:,}" if own and kept else ""
    return f"{before}inside the noise{counts}"


def etas_words(etas: tuple[float, float]) -> str:
    """The range of penalty strengths whose cells are not worse."""
    low, high = map(shown_number, etas)
    if low == high:
        return f"No other η that was tried found cells as good as {low} did."
    return f"η from {low} to {high} mostly finds cells that are not worse beyond the noise."


def sureness_words(answer: Answer, error: Estimate) -> str:
    """Where an interval comes from: images and seeds."""
    if error.images is None:
        return "interval not known: the number of images was not logged"
    images = counted(error.images, f"{'test' if answer.is_tested else 'validation'} image")
    return f"{images}, {counted(error.seeds, 'seed')}" if answer.is_tested else images


def _wrong(error: Estimate) -> str:
    """Number of images that one training got wrong; empty of several trainings or if it is not known."""
    return f"{round(error.value * error.images):,}" if error.images and error.seeds == 1 else ""
