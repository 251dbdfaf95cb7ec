"""What real runs say about themselves, and how they end early."""

from __future__ import annotations

from search_core.space.genotype import PRIMITIVES

REASONS = (
    "out of memory: the trial asked for 2.0 GiB more than the GPU's 15.8 GiB",
    "the loss must be finite, got nan in step 12 of epoch 3",
    "its worker died 3 times (SIGKILL)",
)
SWEPT = {
    "penalty.strength": '{"log_uniform": [1e-05, 0.1]}',
    "temperature.kind": '{"choice": ["linear", "exponential", "cosine"]}',
    "temperature.end": '{"log_uniform": [0.03, 0.5]}',
}
SEARCH_PARAMS = {
    "alpha.betas": "[0.5, 0.999]",
    "alpha.lr": "0.0003",
    "alpha.weight_decay": "0.001",
    "batch_size": "64",
    "cuda_graph": "False",
    "dataset.classes": "10",
    "dataset.cutout": "0",
    "dataset.image_size": "224",
    "dataset.images": "512",
    "dataset.name": "cifar10",
    "dataset.shape": "[3, 32, 32]",
    "dataset.split_seed": "0",
    "dataset.validation_fraction": "0.5",
    "dataset.workers": "4",
    "network.cells": "8",
    "network.init_channels": "16",
    "network.nodes": "4",
    "network.primitives": str(list(PRIMITIVES)),
    "network.recompute": "False",
    "network.stem": "cifar",
    "penalty.cost": "madds",
    "penalty.estimator": "reparam",
    "penalty.log": "True",
    "penalty.schedule": "constant",
    "precision": "bfloat16",
    "recalibration_batches": "16",
    "seed": "0",
    "strategy.sample_per": "batch",
    "temperature.start": "1.0",
    "theta.grad_clip": "5.0",
    "theta.lr": "0.025",
    "theta.lr_min": "0.001",
    "theta.momentum": "0.9",
    "theta.weight_decay": "0.0003",
}
ENVIRONMENT_TAGS = {
    "dataset": "cifar10",
    "dataset.digest": "8e036958c5e4703cb511764cf3db9ef5aa2180cfacf6e1bd78439a9357a503c7",
    "dataset.split_digest": "5f2405b7bb2ba354965d6a2a38eb0f299e5b9a009ca51e68e50ba8cb6a8cb65c",
    "git.commit": "2489e64a90ae212c708f16f97cc170d80e1f6093",
    "version.mlflow": "3.17.2",
    "version.numpy": "2.4.6",
    "version.optuna": "5.0.0",
    "version.python": "3.11.7",
    "version.ray": "2.60.0",
    "version.snas-orchestrator": "0.1.0",
    "version.torch": "2.15.0",
}
