"""Torch optimizers over several networks, with parameter groups, and their schedulers."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..errors import ConfigError, did_you_mean
from ..optimizers import OPTIMIZERS, make_optimizer
from .registry import import_path
from .schedules import number

Networks = Mapping[str, nn.Module]


def build_optimizer(
    spec: str | type[Optimizer],
    networks: Networks,
    *,
    lr: float = 1e-3,
    no_decay: list[str] | None = None,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Optimizer:
    """A torch optimizer over the trainable parameters of networks; see `Backprop`.

    Raises:
        ConfigError: No such optimizer, an argument it does not take, a learning rate that is no
            number, or a pattern nothing fits.
    """
    lr = number("lr", lr)
    kind: Any = spec
    if isinstance(spec, str) and spec.lower() in OPTIMIZERS:
        kind = OPTIMIZERS[spec.lower()]
    elif isinstance(spec, str) and ("." in spec or ":" in spec):
        kind = import_path(spec, what="optimizer")
    if inspect.isclass(kind):
        known = inspect.signature(kind).parameters
        free = any(p.kind is p.VAR_KEYWORD for p in known.values())
        for key in options:
            if key not in known and not free:
                hint = did_you_mean(key, set(known) - {"params"} | {"no_decay", "groups"})
                raise ConfigError(f"`{kind.__name__}` has no argument {key!r}.{hint}")
        chosen: Any = kind
        kind = lambda params: chosen(params, lr=lr, **options)  # noqa: E731
    return make_optimizer(
        kind, _groups(networks, no_decay or [], groups or {}), lr=lr, argument="optimizer"
    )


def _groups(
    networks: Networks, no_decay: list[str], groups: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    found: dict[tuple[str | None, bool], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    unused = {*groups, *no_decay} - {"bias", "norm", "embedding"}
    for network, module in networks.items():
        owners = dict(module.named_modules())
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            path = f"{network}.{name}"
            owner = owners[name.rpartition(".")[0]]
            kinds = {"bias"} if name.rpartition(".")[2].startswith("bias") else set()
            kinds |= {"norm"} if "Norm" in type(owner).__name__ else set()
            kinds |= {"embedding"} if isinstance(owner, nn.Embedding | nn.EmbeddingBag) else set()
            free = [p for p in no_decay if p in kinds or fnmatch.fnmatch(path, p)]
            group = next((p for p in groups if fnmatch.fnmatch(path, p)), None)
            unused -= {*free, *([] if group is None else [group])}
            found.setdefault((group, bool(free)), []).append(parameter)
    if unused:
        raise ConfigError(
            f"No trainable parameter fits {', '.join(map(repr, sorted(unused)))}; patterns are "
            "of `network.parameter`, such as 'net.head.*'."
        )
    return [
        {
            "params": params,
            **(groups[g] if g is not None else {}),
            **({"weight_decay": 0.0} if free else {}),
        }
        for (g, free), params in found.items()
    ]


def make_scheduler(spec: Mapping[str, Any], optimizer: Optimizer) -> Any:
    """A scheduler of ``torch.optim.lr_scheduler`` from ``{type: name or import path, ...}``.

    Raises:
        ConfigError: No such scheduler, or arguments that it does not take.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
        raise ConfigError(
            f"`scheduler` is {spec!r}; a mapping with the `type` of the LR scheduler and its "
            "arguments is needed, such as {type: StepLR, step_size: 100}."
        )
    known = {
        name: kind
        for name, kind in vars(torch.optim.lr_scheduler).items()
        if inspect.isclass(kind) and issubclass(kind, torch.optim.lr_scheduler.LRScheduler)
    }
    name = spec["type"]
    if name == "ReduceLROnPlateau":
        raise ConfigError(
            "The LR scheduler 'ReduceLROnPlateau' goes by what validation finds, of which an "
            "optimizer does not hear; the schedule `plateau` does the same: "
            "schedules: {optimizer/<step>/lr: {type: plateau, start_value: 1e-3, "
            "monitor: validation/loss/<step>/<loss>}}."
        )
    if name not in known and "." not in name and ":" not in name:
        raise ConfigError(f"There is no LR scheduler {name!r}.{did_you_mean(name, known)}")
    kind = known[name] if name in known else import_path(name, what="LR scheduler")
    options = {key: value for key, value in spec.items() if key != "type"}
    taken = inspect.signature(kind).parameters
    free = any(p.kind is p.VAR_KEYWORD for p in taken.values())
    for key in options:
        if key not in taken and not free:
            hint = did_you_mean(key, set(taken) - {"optimizer"})
            raise ConfigError(f"The LR scheduler {name!r} has no argument {key!r}.{hint}")
    try:
        return kind(optimizer, **options)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"The LR scheduler {name!r} could not be made: {err}.") from err
