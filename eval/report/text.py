"""Figures and findings as text, the same on the page and in the terminal."""

from collections.abc import Callable

from eval.checks.audit import show_finding
from eval.results import Interval, Metrics, Run

METRIC_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "f1": "F1",
    "mcc": "MCC",
    "precision": "precision",
    "recall": "recall",
    "log_loss": "log loss",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
BASELINE_NAMES = {
    "majority": "majority class",
    "metadata": "metadata only",
    "connectivity": "connectivity only",
    "connectivity_leaked": "connectivity, leaking",
    "hog_forest": "HOG + random forest",
}
MOST_DIGITS = 17


def show_probability(value: float, tau: float | None = None) -> str:
    """Return a probability in as many digits as tell it from 0, from 1 and from `tau`.

    Near 1 its distance from 1 is shown: `1 − 2.5e-07`.
    """
    for digits in range(3, MOST_DIGITS + 1):
        shown = _probability(value, digits)
        if tau is None or value == tau or shown != _probability(tau, digits):
            return shown
    return shown


def _probability(value: float, digits: int) -> str:
    if value in (0.0, 1.0):
        return f"{value:g}"
    if 0.001 <= value <= 0.999:
        return f"{value:.{digits}f}"
    small = f"{min(value, 1.0 - value):.{digits - 2}e}"
    return small if value < 0.5 else f"1 − {small}"


def show_range(value: Interval) -> str:
    """Return `[0.880, 0.940]`."""
    if value.low is None or value.high is None:
        return "[no interval]"
    return f"[{value.low:.3f}, {value.high:.3f}]"


def show_interval(value: Interval) -> str:
    """Return `0.912 [0.880, 0.940]`."""
    return f"{value.value:.3f} {show_range(value)}"


def show_signed(value: Interval) -> str:
    """Return `+0.021 [−0.003, +0.046]`."""
    numbers = [value.value, value.low, value.high]
    texts = ["none" if x is None else f"{x:+.3f}".replace("-", "−") for x in numbers]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def show_share(value: float) -> str:
    """Return `93 %`."""
    return f"{value:.0%}".replace("%", " %")


def synapses_of_neurons(run: Run) -> str:
    """Return `152 synapses of 9 neurons`, or that the neurons are unknown."""
    synapses = f"{run.n_synapses:,} synapses"
    if run.n_neurons is None:
        return f"{synapses} of unknown neurons"
    return f"{synapses} of {run.n_neurons:,} neurons"


def leaks(run: Run) -> list[str]:
    """Return what makes the scores untrustworthy."""
    return [show_finding(one) for one in run.audit.findings if one.grade == "leak"]


def audit_of_clean(run: Run) -> str | None:
    """Return what the audit of splits that share nothing looked at; None if they share."""
    findings = run.audit.findings
    if any(one.found for one in findings):
        return None
    checks = ", ".join(dict.fromkeys(one.check for one in findings))
    unchecked = ", ".join(run.audit.unchecked)
    if not checks:
        return "split audit: nothing could be compared" + (f" ({unchecked})" if unchecked else "")
    return f"split audit found no leak ({checks})" + (
        f"; not checked: {unchecked}" if unchecked else ""
    )


def headline(metrics: Metrics, say: Callable[[str], None]) -> None:
    """Print the figures that matter as a small table."""
    for run in metrics.runs:
        tau = ""
        if run.tau is not None:
            tau = f", τ = {show_probability(run.tau)} from {run.tau_from}"
        say(f"{run.name}: test, {synapses_of_neurons(run)}{tau}")
        for key in ("balanced_accuracy", "accuracy", "auroc", "f1", "mcc", "ece"):
            if key in run.metrics:
                say(f"  {METRIC_NAMES[key]:<28}{show_interval(run.metrics[key])}")
        if run.neurons is not None:
            consensus = run.neurons.methods["correlated"]["balanced_accuracy"]
            say(f"  {'neurons, by consensus':<28}{show_interval(consensus)}")
        for key, baseline in run.baselines.items():
            name = f"baseline: {BASELINE_NAMES[key]}"
            say(f"  {name:<34}{show_interval(baseline.metrics['balanced_accuracy'])}")
        for text in leaks(run):
            say(f"  LEAK, the scores cannot be trusted: {text}")
        if clean := audit_of_clean(run):
            say(f"  {clean}")
        for note in run.notes:
            say(f"  note: {note}")
    for pair in metrics.comparisons:
        if pair.metrics is not None:
            gap = pair.metrics["balanced_accuracy"]
            say(
                f"{pair.second} − {pair.first}: balanced accuracy {show_signed(gap)}, "
                f"p = {gap.p_value:.3f} ({pair.n_synapses:,} common synapses)"
            )
        else:
            say(f"{pair.second} − {pair.first}: not paired, {pair.not_paired}")
