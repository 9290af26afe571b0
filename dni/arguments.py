"""What may be given to `DNI`, and what a site may return: every check, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import AttachmentError, ConfigError, SiteError, did_you_mean, named
from .interfaces import Interfaces
from .listeners import in_ddp
from .sites import SiteName
from .synthesizers.choose import SynthesizerSpec, resolve


def check_network(network: object) -> None:
    """Refuse what cannot be wrapped.

    Raises:
        ConfigError: No module, or one whose parameters have no shape, or ``nn.DataParallel``.
        AttachmentError: The network is, or contains, a `DNI`.
        SiteError: Nothing in it is trainable.
    """
    if not isinstance(network, nn.Module):
        raise ConfigError(f"`network` is a {type(network).__name__}; an `nn.Module` is needed.")
    for name, module in network.named_modules():
        if isinstance(module, Interfaces):
            inside = name.rpartition(".")[0]
            where = f"contains a `DNI` at {inside!r}" if inside else "is a `DNI` already"
            raise AttachmentError(
                f"`network` {where}; call its `detach()` first and wrap what that returns."
            )
        if isinstance(module, nn.DataParallel):
            raise ConfigError(
                "`nn.DataParallel` shares hooks between its replicas; use "
                "`DistributedDataParallel(DNI(network))`."
            )
    if not any(p.requires_grad for p in network.parameters()):
        raise SiteError(
            f"`{type(network).__name__}` has no trainable parameter; there is nothing to update. "
            "Check `requires_grad`."
        )
    for name, parameter in network.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise ConfigError(
                f"Parameter {name!r} has no shape yet; run the network once before wrapping it."
            )


def check_arguments(
    *,
    update: str,
    grad_scaler: torch.amp.GradScaler | None,
    grad_optim: object,
    gpu_id: int,
    dni_params: object,
    unlock: str,
    update_probability: object,
    train_every: object,
    **positive: float | None,
) -> None:
    """Refuse values that cannot work, all of them in one message.

    Args:
        update: See `DNI`.
        grad_scaler: See `DNI`.
        grad_optim: See `DNI`.
        gpu_id: See `DNI`.
        dni_params: See `DNI`.
        unlock: See `DNI`.
        update_probability: See `DNI`.
        train_every: See `DNI`.
        **positive: Numbers that must be above 0, or ``None``.

    Raises:
        ConfigError: Names every argument that is wrong, and what is needed.
    """
    faults = [
        f"`{name}` is {value!r}; a number above 0 is needed"
        for name, value in positive.items()
        if value is not None
        and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0)
    ]
    if update not in ("auto", "manual"):
        faults.append(f"`update` is {update!r}; 'auto' or 'manual' is needed")
    elif grad_scaler is not None and update == "auto":
        faults.append(
            "`grad_scaler` was given with `update='auto'`, but a scaler has to step the "
            "network's optimizer itself; pass `update='manual'`"
        )
    if isinstance(grad_optim, Optimizer):
        faults.append(
            "`grad_optim` is an optimizer instance, but the synthesizers it would optimize do "
            "not exist yet; pass its name, its class or a factory"
        )
    if not isinstance(dni_params, Mapping):
        faults.append(f"`dni_params` is {dni_params!r}; a dictionary is needed")
    if not isinstance(gpu_id, int):
        faults.append(f"`gpu_id` is {gpu_id!r}; a whole number is needed, -1 for none")
    elif gpu_id >= torch.cuda.device_count() and gpu_id >= 0:
        count = torch.cuda.device_count()
        faults.append(
            f"`gpu_id` is {gpu_id}, but {count} GPUs are visible; -1 leaves devices alone"
        )
    if (
        isinstance(update_probability, bool)
        or not isinstance(update_probability, int | float)
        or not 0 < update_probability <= 1
    ):
        faults.append(
            f"`update_probability` is {update_probability!r}; a number above 0 (at which nothing "
            "would ever learn) and at most 1 is needed"
        )
    if isinstance(train_every, bool) or not isinstance(train_every, int) or train_every < 1:
        faults.append(
            f"`train_every` is {train_every!r}; a whole number is needed, 1 for synthesizers that "
            "learn in every update"
        )
    if unlock not in ("none", "update", "forward"):
        faults.append(f"`unlock` is {unlock!r}; 'none', 'update' or 'forward' is needed")
    elif unlock != "none" and grad_scaler is not None:
        faults.append(f"`unlock={unlock!r}` does not go with `grad_scaler`; use bfloat16 autocast")
    if faults:
        raise ConfigError("; ".join(faults) + ".")


def check_share(interfaces: Interfaces, unlock: str) -> None:
    """Refuse a λ at which unlocking never happens.

    Raises:
        ConfigError: λ is above 0 at some site and no function that may become 0.
    """
    share = interfaces.share
    if unlock != "none" and not callable(share) and not interfaces.is_synthetic:
        raise ConfigError(
            f"`unlock={unlock!r}` was given with `λ={share}`, but a site that learns before the "
            "true gradient is there can have no share of it; pass `λ=0` (a mapping has to name "
            "every site, one it leaves out is at 0.5)."
        )


def check_single(train_every: int) -> None:
    """Refuse DDP where synthesizers do not learn in every update.

    Raises:
        AttachmentError: DDP waits for gradients of all parameters.
    """
    if train_every > 1 and in_ddp():
        raise AttachmentError(
            f"`train_every={train_every}` was given, but `DistributedDataParallel` waits for the "
            "gradients of all parameters in every step, those of synthesizers included; pass "
            "`train_every=1`."
        )


def check_synthesizers(spec: SynthesizerSpec, sites: Mapping[SiteName, nn.Module]) -> None:
    """Refuse a ``dni_network`` that names a synthesizer or a site which does not exist.

    Raises:
        ConfigError: No such synthesizer.
        SiteError: No such site.
    """
    if not isinstance(spec, Mapping):
        resolve(spec, "", nn.Identity())
        return
    for key, value in spec.items():
        resolve(value, str(key), nn.Identity())
        if isinstance(key, str) and key not in sites:
            raise SiteError(f"`dni_network` names site {key!r}.{did_you_mean(key, sites)}")


def no_gradient(output: Any, site: SiteName, module: nn.Module) -> SiteError:
    """The error for an output without a floating-point tensor."""
    what = str(output.dtype) if isinstance(output, Tensor) else f"a {type(output).__name__}"
    return SiteError(
        f"The module `{type(module).__name__}` at {named(site)} returned {what}; an interface "
        "needs a floating-point tensor, which alone has a real gradient. Leave the module out "
        "with `sites=`."
    )


def check_axes(output: Tensor, site: SiteName) -> None:
    """Refuse an output without samples or features.

    Raises:
        SiteError: The output is a single number.
    """
    if output.dim() == 0:
        raise SiteError(
            f"The output of {named(site)} is a single number; an interface needs at least one "
            "axis. Choose another site with `sites=`."
        )


def check_not_late(site: SiteName) -> None:
    """Refuse an interface that is made when DDP has noted all parameters already.

    Raises:
        AttachmentError: DDP would not reduce the gradients of its synthesizer.
    """
    if in_ddp():
        raise AttachmentError(
            f"The interface at {named(site)} is made in the first training pass, but "
            "`DistributedDataParallel` reduces only the parameters that were there when it was "
            "made. Run one training pass through the `DNI` before you wrap it."
        )
