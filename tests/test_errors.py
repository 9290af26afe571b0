"""What `DNI` cannot do is refused with one clear error, and leaves nothing behind."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from checks import INPUT, LABELS, assert_trains, assert_untouched, hooks, mlp
from dni import (
    DNI,
    RNNDNI,
    AttachmentError,
    CheckpointError,
    ConfigError,
    ContextError,
    DNIError,
    DNINetwork,
    ShapeError,
    SiteError,
)


def frozen(network: nn.Module) -> nn.Module:
    return network.requires_grad_(False)


class NoSynthesizer:
    """Neither a module nor a name."""


class Unfinished(DNINetwork):
    """Takes no sizes."""

    def __init__(self) -> None:
        super().__init__(1, 1, 1)


class FailsToBuild(DNINetwork):
    """Its constructor raises what torch's modules raise."""

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        raise ValueError("burnt toast")


def bad(
    name: str,
    error: type[Exception],
    pattern: str,
    make: Callable[[nn.Module], Any],
    **options: Any,
) -> Any:
    return pytest.param(error, pattern, make, options.get("network", mlp), id=name)


def with_options(**options: Any) -> Callable[[nn.Module], DNI]:
    return lambda network: DNI(network, **options)


CONSTRUCTIONS = [
    # What was given, what is needed, the nearest valid name.
    bad("optim-name", ConfigError, r"`optim`.*'admw'.*'adamw'", with_options(optim="admw")),
    bad("optim-kind", ConfigError, r"`optim`.*3.*factory", with_options(optim=3)),
    bad("optim-class", ConfigError, "`optim`.*Linear", with_options(optim=nn.Linear)),
    bad("optim-factory", ConfigError, "`optim`.*int", with_options(optim=lambda params: 3)),
    bad(
        "grad-optim-name",
        ConfigError,
        r"`grad_optim`.*'sdg'.*'sgd'",
        with_options(optim="adam", grad_optim="sdg"),
    ),
    bad(
        "grad-optim-alone",
        ConfigError,
        r"`grad_optim`.*'sdg'.*'sgd'",
        with_options(grad_optim="sdg"),
    ),
    bad(
        "grad-optim-instance",
        ConfigError,
        "`grad_optim`.*instance.*factory",
        lambda n: DNI(n, grad_optim=torch.optim.SGD(n.parameters(), lr=1)),
    ),
    bad("optimizer-that-asks-for-a-closure", ConfigError, "(?i)lbfgs", with_options(optim="lbfgs")),
    bad(
        "optimizer-that-refuses-the-parameters", ConfigError, "(?i)muon", with_options(optim="muon")
    ),
    bad(
        "optimizer-with-several-groups",
        ConfigError,
        "`grad_optim`.*group",
        with_options(grad_optim=lambda ps: torch.optim.SGD([{"params": [p]} for p in ps], lr=1)),
    ),
    bad(
        "synthesizer-name",
        ConfigError,
        r"`dni_network`.*'liner'.*'linear'",
        with_options(dni_network="liner"),
    ),
    bad(
        "synthesizer-kind",
        ConfigError,
        r"`dni_network`.*DNINetwork",
        with_options(dni_network=NoSynthesizer),
    ),
    bad("synthesizer-instance", ConfigError, "`dni_network`", lambda n: DNI(n, nn.Linear(2, 2))),
    bad(
        "synthesizer-in-mapping",
        ConfigError,
        r"'conv'.*'conv2d'",
        with_options(dni_network={nn.Linear: "conv"}),
    ),
    bad(
        "synthesizer-site",
        SiteError,
        r"`dni_network`.*'20'.*'2'",
        with_options(dni_network={"20": "linear"}),
    ),
    bad("synthesizer-sizes", ConfigError, "Unfinished.*'0'", with_options(dni_network=Unfinished)),
    bad(
        "synthesizer-fails",
        ConfigError,
        "FailsToBuild.*'0'.*burnt toast",
        with_options(dni_network=FailsToBuild),
    ),
    bad(
        "synthesizer-maps",
        ConfigError,
        r"Conv2dDNI.*'0'.*'linear'",
        with_options(dni_network="conv2d"),
    ),
    bad(
        "params-unknown",
        ConfigError,
        "LinearDNI.*'0'.*num_layer",
        with_options(dni_params={"num_layer": 2}),
    ),
    bad(
        "params-layers",
        ConfigError,
        "'0'.*num_layers",
        with_options(dni_network=RNNDNI, dni_params={"num_layers": 0}),
    ),
    bad(
        "params-negative",
        ConfigError,
        "'0'.*num_layers",
        with_options(dni_params={"num_layers": -1}),
    ),
    bad(
        "params-cell",
        ConfigError,
        "'lstn'.*'lstm'",
        with_options(dni_network=RNNDNI, dni_params={"kind": "lstn"}),
    ),
    bad(
        "params-pool",
        ConfigError,
        "`pool`.*'mean'.*'avg'",
        with_options(dni_params={"pool": "mean"}, sites=["0"]),
        network=lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)),
    ),
    bad(
        "params-kernel",
        ConfigError,
        "`kernel_size`.*4.*odd.*5",
        with_options(dni_params={"kernel_size": 4}, sites=["0"]),
        network=lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3)),
    ),
    *[
        bad(f"share-{value}", ConfigError, r"`λ`.*0.*1", with_options(λ=value))
        for value in (-0.1, 1.1, float("nan"), float("inf"), "half", "0.5", None, [0.5], 1j)
    ],
    *[
        bad(f"lambda_-{value}", ConfigError, "`λ`", with_options(lambda_=value))
        for value in (-1, float("nan"), "all")
    ],
    bad("share-site", ConfigError, r"`λ`.*'00'.*'0'", with_options(λ={"00": 0.5})),
    bad("share-at-site", ConfigError, r"`λ`.*'2'.*7", with_options(λ={"2": 7})),
    bad("share-schedule", ConfigError, "`λ`.*2", with_options(λ=lambda updates: 2)),
    bad("sites-name", SiteError, r"`sites`.*'3'.*'2'", with_options(sites=["0", "3"])),
    bad("sites-type", SiteError, r"`sites`.*Conv2d", with_options(sites=[nn.Conv2d])),
    bad("sites-entry", ConfigError, "`sites`.*5", with_options(sites=[5])),
    bad("sites-kind", ConfigError, "`sites`.*5", with_options(sites=5)),
    bad("sites-predicate", SiteError, "`sites`", with_options(sites=lambda name, module: False)),
    bad("sites-empty", SiteError, "`sites`", with_options(sites=[])),
    bad(
        "sites-recursive",
        ConfigError,
        "`sites`.*`recursive",
        with_options(sites=["0"], recursive=False),
    ),
    bad("no-leaf", SiteError, "Sequential.*requires_grad", DNI, network=lambda: frozen(mlp())),
    bad("no-parameters", SiteError, "ReLU", DNI, network=nn.ReLU),
    bad(
        "no-leaf-whole",
        SiteError,
        "Sequential",
        with_options(recursive=False),
        network=lambda: frozen(mlp()),
    ),
    bad(
        "no-leaf-sites",
        DNIError,
        "requires_grad|trainable",
        with_options(sites=["0"]),
        network=lambda: frozen(mlp()),
    ),
    bad("hidden-size", ConfigError, "`hidden_size`.*0", with_options(hidden_size=0)),
    bad("hidden-size-half", ConfigError, "hidden_size", with_options(hidden_size=2.5)),
    bad("hidden-size-text", ConfigError, "`hidden_size`.*'10'", with_options(hidden_size="10")),
    bad("grad-lr", ConfigError, "`grad_lr`.*-1", with_options(grad_lr=-1)),
    bad("context-size", ConfigError, "`context_size`.*0", with_options(context_size=0)),
    bad(
        "context-size-half", ConfigError, "context_size|input_size", with_options(context_size=2.5)
    ),
    bad("clip", ConfigError, "`clip`.*nan", with_options(clip=float("nan"))),
    bad("update", ConfigError, "`update`.*'later'.*'auto'.*'manual'", with_options(update="later")),
    bad("gpu", ConfigError, "`gpu_id`.*99.*-1", with_options(gpu_id=99)),
    bad("gpu-text", ConfigError, "`gpu_id`.*'0'", with_options(gpu_id="0")),
    bad("params-none", ConfigError, "`dni_params`", with_options(dni_params=None)),
    bad(
        "scaler",
        ConfigError,
        "`grad_scaler`.*`?update='manual'",
        with_options(grad_scaler=torch.amp.GradScaler("cpu")),
    ),
    bad(
        "several",
        ConfigError,
        "`hidden_size`.*`update`",
        with_options(hidden_size=0, update="later"),
    ),
    bad("lazy", ConfigError, "'0.weight'", DNI, network=lambda: nn.Sequential(nn.LazyLinear(3))),
    bad("parallel", ConfigError, "DataParallel", DNI, network=lambda: nn.DataParallel(mlp())),
]


@pytest.mark.parametrize(("error", "pattern", "make", "network"), CONSTRUCTIONS)
def test_a_construction_that_cannot_work_is_refused_and_leaves_nothing_behind(
    error: type[Exception],
    pattern: str,
    make: Callable[[nn.Module], Any],
    network: Callable[[], nn.Module],
) -> None:
    module = network()
    lazy = any(isinstance(p, nn.UninitializedParameter) for p in module.parameters())
    twin, before = None if lazy else copy.deepcopy(module), hooks(module)
    with pytest.raises(error, match=f"(?s){pattern}") as info:
        make(module)
    assert isinstance(info.value, DNIError)
    if twin is None:
        assert hooks(module) == before
        return
    assert_untouched(module, twin)
    if isinstance(module, nn.Sequential) and next(module.parameters()).requires_grad:
        assert len(DNI(module).interfaces) == 2 or isinstance(module[0], nn.Conv2d)


@pytest.mark.parametrize("network", [None, "mlp", nn.Linear, torch.ones(2)])
def test_what_is_no_module_is_refused(network: Any) -> None:
    with pytest.raises(ConfigError, match=r"`network`.*nn\.Module"):
        DNI(network)


def test_each_error_is_also_the_builtin_a_caller_expects() -> None:
    for error in (ConfigError, SiteError, ShapeError, ContextError):
        assert issubclass(error, DNIError)
        assert issubclass(error, ValueError)
    for error in (AttachmentError, CheckpointError):
        assert issubclass(error, DNIError)
        assert issubclass(error, RuntimeError)


# -- wrapped twice -------------------------------------------------------------------------------


def test_a_wrapper_is_not_wrapped_again_and_goes_on_working() -> None:
    net = DNI(mlp())
    before = hooks(net.network)
    with pytest.raises(AttachmentError, match=r"is a `DNI`.*detach"):
        DNI(net)
    with pytest.raises(AttachmentError, match=r"contains a `DNI` at '1.inner'.*detach"):
        DNI(nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"inner": net})))
    assert hooks(net.network) == before
    assert_trains(net)


def test_a_wrapped_module_is_not_wrapped_from_outside_until_it_is_detached() -> None:
    inner = mlp()
    outer = nn.Sequential(nn.Linear(4, 4), inner)
    net = DNI(inner)
    before = hooks(inner)
    for network in (inner, outer):
        with pytest.raises(AttachmentError, match=r"site '(1\.)?0'.*`detach\(\)`"):
            DNI(network)
    assert hooks(outer) == before
    assert_trains(net)
    net.detach()
    assert_untouched(outer, copy.deepcopy(outer))
    assert_trains(DNI(outer))


# -- λ set later ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [-0.1, 1.5, float("nan"), "half", {"7": 0.1}, {"0": "x"}, lambda updates: -1]
)
def test_a_share_set_later_is_refused_and_the_old_one_stays(value: Any) -> None:
    net, twin = (DNI(copy.deepcopy(network), λ=0.25) for network in [mlp()] * 2)
    with pytest.raises(ConfigError, match="`λ`"):
        net.λ = value
    assert net.λ == 0.25
    assert net.lambda_ == 0.25
    assert_trains(net, twin=twin)


def test_a_schedule_that_leaves_the_interval_is_refused_and_training_can_go_on() -> None:
    network = mlp()
    twin = DNI(copy.deepcopy(network), λ=0.5)
    net = DNI(network, λ=lambda updates: 0.5 if updates < 2 else 1.5)
    for wrapper in (net, twin):
        F.cross_entropy(wrapper(INPUT), LABELS).backward()
    F.cross_entropy(twin(INPUT), LABELS).backward()
    with pytest.raises(ConfigError, match=r"`λ`.*1\.5"):
        F.cross_entropy(net(INPUT), LABELS).backward()
    net.λ = 0.5
    assert net.updates == twin.updates
    assert_trains(net, twin=twin)


# -- attributes ----------------------------------------------------------------------------------


def test_an_unknown_attribute_names_both_classes() -> None:
    net = DNI(mlp())
    with pytest.raises(AttributeError, match=r"`DNI`.*`Sequential`.*'lambada'"):
        _ = net.lambada
    with pytest.raises(AttributeError):
        _ = net._private
