"""All sub-commands of `snas`."""

from __future__ import annotations

from orchestrator.cli.lazy import SubCommand

COMMANDS = {
    "init": SubCommand(
        "orchestrator.cli.init",
        "init",
        "Write a commented study file to begin with; without arguments, list the templates.",
    ),
    "search": SubCommand("orchestrator.cli.search", "search", "Run one search without Ray."),
    "study": SubCommand("orchestrator.cli.study", "app", "Studies: many searches on a Ray cluster."),
    "trial": SubCommand("orchestrator.cli.trial", "app", "Single trials of a study."),
    "cluster": SubCommand("orchestrator.cli.cluster", "app", "Ray clusters: is everything there that a study needs?"),
    "latency": SubCommand("orchestrator.cli.latency", "app", "Latency of children: measure a table for a device."),
    "retrain": SubCommand(
        "orchestrator.cli.retrain",
        "retrain",
        "Train the child network of a cell from scratch, test it once, and register it in MLflow.",
    ),
    "profile": SubCommand(
        "orchestrator.cli.profile",
        "profile",
        "Count parameters, multiply-adds and memory accesses of a cell's network, for one image.",
    ),
    "strategies": SubCommand(
        "orchestrator.cli.strategies",
        "strategies",
        "List the search strategies: what each does and where it was published.",
    ),
    "dashboard": SubCommand(
        "orchestrator.cli.dashboard",
        "dashboard",
        "Serve the dashboard of a store's studies on 127.0.0.1, read only.",
    ),
    "ui": SubCommand("orchestrator.cli.ui", "ui", "Serve the MLflow UI of the embedded store on 127.0.0.1."),
}
