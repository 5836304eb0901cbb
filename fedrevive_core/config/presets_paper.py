"""The paper's data sets, in the settings of its authors' experiments.

FedAsync and the baselines of later papers are not part of these experiments: their rates are ours.
"""

from __future__ import annotations

from fedrevive_core.config.base import merge
from fedrevive_core.config.preset_base import BUFFERS_TWO, Preset, server_lr

# Server learning rates of the methods beyond the authors' experiments: ours, untuned, the same for every data set.
UNTUNED = {
    "fedasync_constant": 0.1, "fedasync_poly": 0.1, "fedasync_hinge": 0.1,
    "fedbuff_momentum": 0.01, "fedbuff_adam": 1e-3, "fadas": 1e-3, "ca2fl": 0.05, "mifa": 0.05,
}  # fmt: skip
_CIFAR = {
    "model": "resnet18",
    "federation": {"num_clients": 1000, "concurrency": 100},
    "data": {
        "alpha": 0.5,
        "samples_per_client": 350,
        "augmentation": {"crop_padding": 4, "flip": True},
    },
    "training": {"steps": 25, "batch_size": 32, "lr": 3e-4},
    "revival": {"freeze": 50, "warmup": 100},
    "synthesis": {"noise_dim": 256, "width": 128, "generator_lr": 3e-3, "noise_lr": 1e-3},
}
_CIFAR10 = merge(
    _CIFAR,
    {
        "data": {"name": "cifar10", "mean": (0.4914, 0.4822, 0.4465), "std": (0.2023, 0.1994, 0.2010)},
        "synthesis": {"feature_weight": 3e-3},
        "distillation": {"lr": 1e-4, "temperature": 1.0},
    },
)
_CIFAR10_METHODS = merge(
    server_lr(
        fedavg=1.4, fedbuff=0.05, afl_dw=0.1, dd_fedrevive=0.2, fedrevive=0.1, **UNTUNED,
    ),
    {
        **BUFFERS_TWO,
        "dd-fedrevive": {"distillation": {"lr": 3e-4, "temperature": 2.0}},
    },
)  # fmt: skip
# The budget of CIFAR-10; that of the others is ours (the authors stopped those runs at 17,500 units).
_SIM_TIME = {"default": 200.0, "shifted": 100.0}

PAPER_PRESETS: dict[str, Preset] = {
    "cifar10": Preset("CIFAR-10 as in the paper", _CIFAR10, _CIFAR10_METHODS, _SIM_TIME),
    "cifar10-authors": Preset(
        "CIFAR-10 as in the authors' first code: true proportions, T_gen 1, zeros blended at first, meta eps 0",
        _CIFAR10,
        merge(
            _CIFAR10_METHODS,
            {
                "fedrevive": {
                    "revival": {"proportions": "true", "before_distillation": "zero"},
                    "synthesis": {"every": 1, "meta_eps": 0.0},
                }
            },
        ),
        _SIM_TIME,
    ),
    "cifar100": Preset(
        "CIFAR-100 as in the paper; the budget in simulated time is ours",
        merge(
            _CIFAR,
            {
                "data": {"name": "cifar100", "mean": (0.507, 0.487, 0.441), "std": (0.268, 0.257, 0.276)},
                "synthesis": {"feature_weight": 3e-4},
                "distillation": {"lr": 3e-5, "temperature": 1.0},
            },
            {"data": {"augmentation": {"rotation": 15.0}}},
        ),
        merge(
            server_lr(
                fedavg=1.4, fedbuff=0.1, afl_dw=0.1, dd_fedrevive=0.3, fedrevive=0.1, **UNTUNED,
            ),
            {
                **BUFFERS_TWO,
                "fedavg": {"federation": {"concurrency": 200}},
                "fedbuff": {"federation": {"buffer_size": 3}},
                "dd-fedrevive": {"training": {"lr": 1e-4}, "distillation": {"lr": 1e-4, "temperature": 1.0}},
            },
        ),
        _SIM_TIME,
    ),
    "femnist": Preset(
        "FEMNIST by writer as in the paper; the budget in simulated time is ours",
        {
            "model": "convnet",
            "federation": {"num_clients": 1000, "concurrency": 100},
            "data": {"name": "femnist", "split": "natural"},
            "training": {"steps": 25, "batch_size": 32, "lr": 1e-3},
            "revival": {"freeze": 400, "warmup": 500},
            "synthesis": {
                "noise_dim": 256, "width": 128, "generator_lr": 1e-2, "noise_lr": 3e-3, "feature_weight": 0.3,
            },
            "distillation": {"lr": 1e-4, "temperature": 1.0},
        },
        merge(
            server_lr(
                fedavg=1.4, fedbuff=0.025, afl_dw=0.05, dd_fedrevive=0.1, fedrevive=0.05, **UNTUNED,
            ),
            {
                **BUFFERS_TWO,
                "fedbuff": {"federation": {"buffer_size": 1}},
                "dd-fedrevive": {"distillation": {"lr": 3e-4, "temperature": 2.0}},
            },
        ),
        _SIM_TIME,
    ),
    "newsgroups": Preset(
        "20 Newsgroups with T5-small's encoder as in the paper; the budget in simulated time is ours",
        {
            "model": "encoder",
            "federation": {"num_clients": 1000, "concurrency": 100},
            "data": {
                "name": "newsgroups", "alpha": 0.5, "samples_per_client": 350,
                "tokenizer": "google-t5/t5-small", "prefix_token": 3200, "max_tokens": 256,
            },
            "training": {"steps": 25, "batch_size": 32, "lr": 1e-3},
            "revival": {"freeze": 50, "warmup": 100},
            "synthesis": {
                "tokens": 128, "prompt_tokens": 4, "min_tokens": 64,
                "generator_lr": 1e-2, "noise_lr": 0.1, "feature_weight": 1e-4,
            },
            "distillation": {"lr": 3e-4, "temperature": 1.0},
        },
        merge(
            server_lr(
                fedavg=1.0, fedbuff=0.1, afl_dw=0.1, dd_fedrevive=0.1, fedrevive=0.1, **UNTUNED,
            ),
            {
                **BUFFERS_TWO,
                "fedavg": {"training": {"lr": 3e-3}},
                "fedbuff": {"federation": {"buffer_size": 3}},
                "dd-fedrevive": {"distillation": {"lr": 1e-4, "temperature": 2.0}},
            },
        ),
        _SIM_TIME,
    ),
}  # fmt: skip
