"""Every wrong use gives one clear error, leaves nothing behind, and the next call works."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

INPUT, LABELS = torch.linspace(-1, 1, 20).view(5, 4), torch.tensor([0, 1, 2, 1, 0])


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def hooks(network: nn.Module) -> int:
    """Number of hooks of any kind on a network."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    on_modules = sum(len(getattr(m, kind)) for m in network.modules() for kind in kinds)
    on_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return on_modules + sum(
        len(getattr(p, kind, None) or ()) for p in network.parameters() for kind in on_parameters
    )


def assert_untouched(network: nn.Module, twin: nn.Module) -> None:
    """Assert that a network is what its copy is: no hook, no attribute, no number changed."""
    assert hooks(network) == 0
    for (name, module), other in zip(network.named_modules(), twin.modules(), strict=True):
        assert type(module) is type(other), name
        assert module.__dict__.keys() == other.__dict__.keys(), name
        assert module.training == other.training, name
    assert network.state_dict().keys() == twin.state_dict().keys()
    for (name, a), b in zip(network.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def assert_trains(net: DNI, *, twin: DNI | None = None, **context: Any) -> None:
    """Assert that three updates work, and do the same as those of a wrapper nothing happened to."""
    for _ in range(3):
        before = [p.clone() for p in net.network.parameters()]
        F.cross_entropy(net(INPUT, **context), LABELS).backward()
        after = list(net.network.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
        if twin is not None:
            F.cross_entropy(twin(INPUT, **context), LABELS).backward()
    if twin is not None:
        for (name, a), b in zip(net.state_dict().items(), twin.state_dict().values(), strict=True):
            assert not isinstance(a, Tensor) or torch.equal(a, b), name


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


# -- outputs of a site ---------------------------------------------------------------------------


class Choice(nn.Module):
    """Returns the index of the largest logit while ``is_hard``."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(4, 3)
        self.is_hard = True

    def forward(self, input: Tensor) -> Tensor:
        logits = self.logits(input)
        return logits.argmax(1) if self.is_hard else logits


def test_an_integer_output_is_refused_with_the_site_and_the_next_call_works() -> None:
    network = Choice()
    net = DNI(network, recursive=False)
    with pytest.raises(SiteError, match=r"Choice.*''.*int64.*floating-point.*`sites=`"):
        net(INPUT)
    network.is_hard = False
    assert_trains(net)


def test_an_output_without_any_tensor_is_refused() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.ones(1))

        def forward(self, input: Tensor) -> dict[str, Any]:
            return {"words": "none", "count": (self.unused * 1).long()}

    with pytest.raises(SiteError, match=r"Words.*''.*dict"):
        DNI(Words(), recursive=False)(INPUT)


def test_an_output_without_axes_is_refused() -> None:
    class Total(Choice):
        def forward(self, input: Tensor) -> Tensor:
            return self.logits(input).sum() if self.is_hard else self.logits(input)

    net = DNI(network := Total(), recursive=False)
    with pytest.raises(DNIError, match=r"''.*(axis|axes|feature).*"):
        net(INPUT)
    network.is_hard = False
    assert_trains(net)


def test_an_empty_batch_is_refused_with_the_shape_and_the_next_call_works() -> None:
    network = mlp()
    twin = DNI(copy.deepcopy(network))
    net = DNI(network)
    with pytest.raises(ShapeError, match=r"'0'.*\(0, 8\).*at least one sample"):
        net(INPUT[:0])
    assert_trains(net, twin=twin)


def test_an_empty_batch_is_the_networks_own_business_in_evaluation() -> None:
    net = DNI(mlp()).eval()
    assert net(INPUT[:0]).shape == (0, 3)


# -- synthesizers that misbehave -----------------------------------------------------------------


class Moody(DNINetwork):
    """Does what ``mood`` says, or answers as it should."""

    mood: Any = None

    def __init__(self, input_size: int, hidden_size: int, output_size: int) -> None:
        super().__init__(input_size, hidden_size, output_size)
        self.map = nn.Linear(input_size, output_size)

    def forward(self, input: Tensor, hidden: Any) -> Any:
        gradient = self.map(input)
        return (gradient, hidden) if Moody.mood is None else Moody.mood(gradient)


@pytest.fixture
def moody() -> Iterator[type[Moody]]:
    yield Moody
    Moody.mood = None


def raising(error: BaseException) -> Callable[[Tensor], Any]:
    def raise_it(gradient: Tensor) -> Any:
        raise error

    return raise_it


MOODS = [
    ("narrow", ShapeError, r"\(5, 7\).*\(5, 8\)", lambda g: (g[:, 1:], None)),
    ("flat", ShapeError, r"\(40,\).*\(5, 8\)", lambda g: (g.flatten(), None)),
    ("transposed", ShapeError, r"\(8, 5\).*\(5, 8\)", lambda g: (g.t(), None)),
    ("one-row", ShapeError, r"\(1, 8\).*\(5, 8\)", lambda g: (g[:1], None)),
    ("no-tensor", ShapeError, "list.*tensor", lambda g: (g.tolist(), None)),
    ("none", DNIError, "", lambda g: None),
    ("no-pair", DNIError, "pair|shape", lambda g: g),
    ("three", DNIError, "pair", lambda g: (g, None, None)),
    *[
        (type(e).__name__, SiteError, "burnt toast", raising(e))
        for e in (
            RuntimeError("burnt toast"),
            ValueError("burnt toast"),
            TypeError("burnt toast"),
            IndexError("burnt toast"),
            AttributeError("burnt toast"),
            KeyError("burnt toast"),
            ZeroDivisionError("burnt toast"),
            NotImplementedError("burnt toast"),
        )
    ],
]


@pytest.mark.parametrize(
    ("error", "pattern", "mood"), [pytest.param(*row[1:], id=row[0]) for row in MOODS]
)
def test_a_synthesizer_that_misbehaves_is_named_with_its_site(
    moody: type[Moody], error: type[DNIError], pattern: str, mood: Any
) -> None:
    network = mlp()
    torch.manual_seed(3)
    twin = DNI(copy.deepcopy(network), moody)
    torch.manual_seed(3)
    net = DNI(network, moody)
    moody.mood = staticmethod(mood)
    with pytest.raises(error, match=f"(?s)Moody.*'0'.*{pattern}") as info:
        net(INPUT)
    moody.mood = None
    if error is SiteError:
        assert info.value.__cause__ is not None
    del info
    assert_trains(net, twin=twin)


def test_an_interrupt_in_a_synthesizer_is_not_turned_into_an_error(moody: type[Moody]) -> None:
    net = DNI(mlp(), moody)
    moody.mood = staticmethod(raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        net(INPUT)
    moody.mood = None
    assert_trains(net)


def test_a_synthesizer_without_forward_says_what_to_define() -> None:
    with pytest.raises(SiteError, match=r"`DNINetwork`.*'0'.*forward\(self, input, hidden\)"):
        DNI(mlp(), DNINetwork)(INPUT)


# -- context -------------------------------------------------------------------------------------

CONTEXTS = [
    ("missing", r"'0'.*`context_size=3`.*context=labels", None),
    ("short", r"\(4,\).*'0'.*\(5, 8\)", LABELS[:4]),
    ("long", r"\(6,\).*'0'.*\(5, 8\)", torch.zeros(6).long()),
    ("transposed", "context", torch.zeros(3, 5)),
    ("too-large", "0 to 3.*0 to 2", torch.tensor([0, 1, 2, 3, 0])),
    ("negative", "-1 to 2.*0 to 2", torch.tensor([0, 1, 2, -1, 0])),
    ("features", r"\(5, 4\).*3", torch.zeros(5, 4)),
    ("no-axis", r"shape \(5,\)", torch.zeros(5)),
    ("list", "list.*tensor", [0, 1, 2, 1, 0]),
]


@pytest.mark.parametrize(
    ("pattern", "given"), [pytest.param(*row[1:], id=row[0]) for row in CONTEXTS]
)
def test_a_context_that_does_not_fit_is_refused_and_the_next_call_works(
    pattern: str, given: Any
) -> None:
    network = mlp()
    twin = DNI(copy.deepcopy(network), context_size=3)
    net = DNI(network, context_size=3)
    arguments = {} if given is None else {"context": given}
    with pytest.raises(ContextError, match=f"(?s){pattern}"):
        net(INPUT, **arguments)
    with pytest.raises(ContextError, match="no context"):
        net(INPUT)  # what was refused is not kept
    assert_trains(net, twin=twin, context=LABELS)


def test_a_context_for_a_wrapper_without_one_is_refused() -> None:
    net = DNI(mlp())
    with pytest.raises(ContextError, match=r"`context_size="):
        net(INPUT, context=LABELS)
    with pytest.raises(ContextError, match=r"`context_size="), net.context(LABELS):
        pass
    assert_trains(net)


def test_labels_that_match_the_height_of_a_map_and_not_its_batch_are_refused() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 3))
    for dni_network in (None, "linear"):
        net = DNI(copy.deepcopy(network), dni_network, context_size=3, sites=["0"])
        with pytest.raises(ContextError, match=r"'0'.*one context per sample"):
            net(torch.randn(5, 1, 8, 8), context=torch.zeros(8).long())


# -- an exception in the middle of a forward -----------------------------------------------------


class Fuse(nn.Module):
    """Raises while it is lit."""

    is_lit = False

    def forward(self, input: Tensor) -> Tensor:
        if self.is_lit:
            raise ArithmeticError("blown")
        return input


@pytest.mark.parametrize("is_first", [True, False], ids=["first-pass", "later-pass"])
def test_an_exception_in_the_middle_of_a_forward_passes_through_and_the_next_call_works(
    is_first: bool,
) -> None:
    fuse = Fuse()
    network = nn.Sequential(nn.Linear(4, 8), fuse, nn.Linear(8, 3))
    twin = DNI(copy.deepcopy(network), context_size=3)
    net = DNI(network, context_size=3)
    if not is_first:
        assert_trains(net, twin=twin, context=LABELS)
    fuse.is_lit = True
    with pytest.raises(ArithmeticError, match="blown") as kept:  # its traceback keeps the graph
        net(INPUT, context=LABELS)
    fuse.is_lit = False
    with pytest.raises(ContextError, match="no context"):
        net(INPUT)
    assert_trains(net, twin=twin, context=LABELS)
    assert kept.value is not None


# -- states --------------------------------------------------------------------------------------


def trained(network: nn.Module, steps: int = 2, **options: Any) -> DNI:
    net = DNI(network, **options)
    for _ in range(steps):
        F.cross_entropy(net(INPUT), LABELS).backward()
    return net


def wide() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))


def deep() -> nn.Sequential:
    return nn.Sequential(*mlp(), nn.ReLU(), nn.Linear(3, 3))


STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "wider": (lambda: trained(wide()).state_dict(), r"network\.0\.weight.*\(9, 4\).*\(8, 4\)"),
    "deeper": (lambda: trained(deep()).state_dict(), "'4'.*no site"),
    "shallower": (lambda: trained(nn.Sequential(nn.Linear(4, 3))).state_dict(), "missing"),
    "synthesizer": (
        lambda: trained(mlp(), dni_network="linear_sigmoid").state_dict(),
        "LinearSigmoidDNI.*'0'.*LinearDNI",
    ),
    "hidden-size": (
        lambda: trained(mlp(), hidden_size=7).state_dict(),
        r"interfaces\./0.*\(7, 8\).*\(10, 8\)",
    ),
    "context": (
        lambda: DNI(mlp(), context_size=3).state_dict(),
        r"interfaces\./0.*\(10, 11\).*\(10, 8\)",
    ),
    "fewer-sites": (lambda: trained(mlp(), sites=["0"]).state_dict(), r"interfaces\./2.*missing"),
    "plain": (lambda: mlp().state_dict(), "missing"),
    "empty": (dict, "missing"),
}


def snapshot(net: DNI) -> dict[str, Any]:
    return copy.deepcopy(net.training_state())


def assert_snapshot(net: DNI, wanted: Any, found: Any = None, where: str = "") -> None:
    """Assert that nothing in a wrapper has changed: parameters, statistics, moments."""
    found = net.training_state() if found is None else found
    if isinstance(wanted, dict):
        assert list(found) == list(wanted), where
        for key, value in wanted.items():
            assert_snapshot(net, value, found[key], f"{where}.{key}")
    elif isinstance(wanted, list):
        assert len(found) == len(wanted), where
        for index, value in enumerate(wanted):
            assert_snapshot(net, value, found[index], f"{where}.{index}")
    elif isinstance(wanted, Tensor):
        assert torch.equal(found, wanted), where
    else:
        assert found == wanted or wanted is None, where


@pytest.mark.parametrize(
    ("make", "pattern"), [pytest.param(*row, id=name) for name, row in STATES.items()]
)
def test_a_state_of_another_architecture_is_refused_and_nothing_of_it_is_loaded(
    make: Callable[[], Any], pattern: str
) -> None:
    network = mlp()
    twin = trained(copy.deepcopy(network))
    net = trained(network)
    state = make()
    keys = list(state)
    before = snapshot(net)
    optimizers = net.optimizer, net.synthesizer_optimizer
    with pytest.raises(CheckpointError, match=f"(?s){pattern}"):
        net.load_state_dict(state)
    assert list(state) == keys
    assert_snapshot(net, before)
    assert (net.optimizer, net.synthesizer_optimizer) == optimizers
    assert_trains(net, twin=twin)


def test_a_state_that_does_not_fit_leaves_a_fresh_wrapper_as_it_was() -> None:
    block = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 3))
    wrapper = DNI(block, skip_last_layer=True)
    state = trained(wide(), skip_last_layer=True).state_dict()
    with pytest.raises(CheckpointError):
        wrapper.load_state_dict(state)
    assert len(wrapper.interfaces) == 0
    assert wrapper.synthesizer_optimizer is None
    assert_trains(wrapper)


TRAINING_STATES: dict[str, tuple[Callable[[], Any], str]] = {
    "model-only": (lambda: trained(mlp()).state_dict(), "lacks 'model'.*load_state_dict"),
    "empty": (dict, "lacks 'model', 'optimizer'"),
    "wider": (lambda: trained(wide()).training_state(), r"network\.0\.weight"),
    "deeper": (lambda: trained(deep()).training_state(), "sizes|site"),
    "other-optimizer": (lambda: trained(mlp(), optim="sgd").training_state(), "(?i)optimizer"),
    "other-synthesizer-optimizer": (
        lambda: trained(mlp(), optim="adam", grad_optim="sgd").training_state(),
        "(?i)optimizer",
    ),
    "no-synthesizer-optimizer": (
        lambda: trained(mlp(), train_synthesizers=False).training_state(),
        "(?i)synthesizer",
    ),
}


@pytest.mark.parametrize(
    ("make", "pattern"), [pytest.param(*row, id=name) for name, row in TRAINING_STATES.items()]
)
def test_a_training_state_that_does_not_fit_is_refused_and_nothing_of_it_is_loaded(
    make: Callable[[], Any], pattern: str
) -> None:
    network = mlp()
    twin = trained(copy.deepcopy(network))
    net = trained(network)
    before = snapshot(net)
    state = make()
    with pytest.raises(CheckpointError, match=f"(?s){pattern}"):
        net.load_training_state(state)
    assert_snapshot(net, before)
    assert_trains(net, twin=twin)


# -- attributes ----------------------------------------------------------------------------------


def test_an_unknown_attribute_names_both_classes() -> None:
    net = DNI(mlp())
    with pytest.raises(AttributeError, match=r"`DNI`.*`Sequential`.*'lambada'"):
        _ = net.lambada
    with pytest.raises(AttributeError):
        _ = net._private
