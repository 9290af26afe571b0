"""What a saved wrapper contains, and whether it fits the wrapper it is loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import CheckpointError, did_you_mean, named
from .interfaces import Interfaces
from .sites import SiteName, unescape
from .synthesizers.choose import Layout

VERSION = 1
EXTRA = "._extra_state"


def saved_interfaces(state: Mapping[str, Any], prefix: str = "") -> dict[SiteName, dict[str, Any]]:
    """The interfaces in a ``state_dict``: name and what it takes to make each again.

    Args:
        state: A ``state_dict`` with keys ``interfaces.<escaped site>.*``.
        prefix: What comes before ``interfaces``, for a wrapper inside another module.

    Returns:
        The extra state of each interface, by name, in the order of the file.
    """
    start = f"{prefix}interfaces."
    return {
        unescape(key[len(start) : -len(EXTRA)]): value
        for key, value in state.items()
        if key.startswith(start) and key.endswith(EXTRA) and key.count(".", len(start)) == 1
    }


def fitting(
    state: Mapping[str, Any],
    prefix: str,
    sites: Mapping[SiteName, nn.Module],
    interfaces: Interfaces,
) -> list[tuple[SiteName, SiteName, Layout]]:
    """The interfaces that a state has and a wrapper has not, if all of them can be made there.

    Args:
        state: A ``state_dict``.
        prefix: What comes before ``interfaces`` in its keys.
        sites: The sites of the wrapper.
        interfaces: Its interfaces.

    Returns:
        Name, site and layout of each.

    Raises:
        CheckpointError: One is at a site that does not exist here, or has another synthesizer.
    """
    missing: list[tuple[SiteName, SiteName, Layout]] = []
    for name, saved in saved_interfaces(state, prefix).items():
        site = saved["site"]
        module = sites.get(site)
        if module is None:
            hint = did_you_mean(site, sites)
            raise CheckpointError(
                f"The state has an interface at {site!r}, which is no site here.{hint}"
            )
        layout = Layout(
            features=int(saved["features"]),
            axis=int(saved["axis"]),
            maps=bool(saved["maps"]),
            batch_axis=int(saved["batch_axis"]),
        )
        here = interfaces.synthesizer_for(site, module, layout).__name__
        if here != saved["synthesizer"]:
            raise CheckpointError(
                f"The state has a `{saved['synthesizer']}` at {named(site)}, this wrapper makes "
                f"a `{here}` there; pass the `dni_network` it had when it was saved."
            )
        if name not in interfaces:
            missing.append((name, site, layout))
    return missing


def differences(expected: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Where a state does not fit, one line per key.

    Args:
        expected: ``state_dict`` of the wrapper.
        given: The state to load.

    Returns:
        Missing keys, unexpected keys and tensors of another shape; empty if it fits.
    """
    lines = [f"{key} is missing" for key in expected if key not in given]
    lines += [f"{key} is not part of this wrapper" for key in given if key not in expected]
    for key, value in expected.items():
        other = given.get(key)
        if not isinstance(value, Tensor) or not isinstance(other, Tensor):
            continue
        if value.shape != other.shape:
            lines.append(
                f"{key} has shape {tuple(other.shape)} in the state and {tuple(value.shape)} here"
            )
    return lines


def check(expected: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse a state that does not fit, before anything is written.

    Raises:
        CheckpointError: Names the first keys that differ, and how many there are.
    """
    lines = differences(expected, given)
    if lines:
        more = f"; and {len(lines) - 4} more" if len(lines) > 4 else ""
        raise CheckpointError(
            f"The state does not fit this wrapper: {'; '.join(lines[:4])}{more}. Make the "
            "network and the `DNI` around it with the arguments they had when it was saved; "
            "nothing was loaded."
        )


def check_training_state(
    state: Mapping[str, Any], optimizer: Optimizer | None, *, trains_synthesizers: bool
) -> None:
    """Refuse a training state that lacks a part or is for other optimizers.

    Args:
        state: What ``training_state()`` gave.
        optimizer: Optimizer of the network it is to be loaded into, if the wrapper has one.
        trains_synthesizers: Whether the wrapper it is to be loaded into trains synthesizers.

    Raises:
        CheckpointError: A part is missing, or the optimizer has other groups or settings.
    """
    missing = [k for k in ("model", "optimizer", "synthesizer_optimizer") if k not in state]
    if missing:
        raise CheckpointError(
            f"The training state lacks {', '.join(map(repr, missing))}; load what "
            "`training_state()` gave. For a `state_dict()` use `load_state_dict`."
        )
    if trains_synthesizers and state["synthesizer_optimizer"] is None:
        trained = saved_interfaces(state["model"])
        if trained:
            raise CheckpointError(
                "The state was saved with `train_synthesizers=False`, so it has no optimizer for "
                "them; pass the same here, or load `state['model']` with `load_state_dict`."
            )
    if (optimizer is None) != (state["optimizer"] is None):
        has, lacks = ("state", "wrapper") if optimizer is None else ("wrapper", "state")
        raise CheckpointError(
            f"The {has} has an optimizer of the network, the {lacks} has none; pass the `optim` "
            "it had when it was saved. Nothing was loaded."
        )
    if optimizer is None:
        return
    check_settings("optimizer", state["optimizer"], optimizer)
    here = [len(group["params"]) for group in optimizer.param_groups]
    there = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    if here != there:
        raise CheckpointError(
            f"The saved optimizer has parameter groups of sizes {there}, this one {here}; "
            "nothing was loaded."
        )


def check_settings(name: str, saved: Mapping[str, Any], optimizer: Optimizer) -> None:
    """Refuse the state of another kind of optimizer.

    Args:
        name: Which optimizer, for the message.
        saved: Its ``state_dict``.
        optimizer: The optimizer to load it into.

    Raises:
        CheckpointError: Its groups have other settings.
    """
    for group, live in zip(saved["param_groups"], optimizer.param_groups, strict=False):
        if set(group) != set(live):
            raise CheckpointError(
                f"The saved `{name}` has the settings {sorted(set(group) - {'params'})}, "
                f"`{type(optimizer).__name__}` here has {sorted(set(live) - {'params'})}; use the "
                "optimizer it was saved with. Nothing was loaded."
            )
