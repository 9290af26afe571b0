"""`unlock="update"`: the same learning as λ = 0 without it, done during the forward pass."""

from __future__ import annotations

import copy
import pickle
import warnings
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dni import DNI, DNINetwork
from dni.errors import ConfigError, DNIWarning
from dni.vision import import_torchvision

DOUBLE = torch.float64
BATCH, WIDTH, CLASSES = 6, 8, 3


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(DOUBLE)
    yield
    torch.set_default_dtype(torch.float32)


def chain() -> nn.Module:
    first = [nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.ReLU(inplace=True)]
    second = [nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True)]
    return nn.Sequential(*first, *second, nn.Linear(WIDTH, CLASSES))


def blocks() -> nn.Module:
    def block() -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Tanh())

    return nn.Sequential(block(), block(), block(), nn.Linear(WIDTH, CLASSES))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)),
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Flatten(), nn.Linear(16, CLASSES)),
    )


def frozen() -> nn.Module:
    network = chain()
    network[0].requires_grad_(False)
    network[3].weight.requires_grad_(False)
    return network


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(2, 5, batch_first=True)
        self.second = nn.LSTM(5, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        seen, _ = self.first(x.view(-1, 4, 2))
        return self.head(self.second(seen)[0][:, -1])


class Fork(nn.Module):
    """Two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, 5), nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(x).tanh(), self.right(x)


class Forked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lower, self.fork = nn.Linear(WIDTH, WIDTH), Fork()
        self.joined, self.head = nn.Linear(9, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.fork(self.lower(x).relu())
        return self.head(self.joined(torch.cat((left, right), 1)).tanh())


class Residual(nn.Module):
    """Skips past one cut, and past several."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        a = self.norm(self.a(x)).tanh()
        b = a + self.b(a).tanh()
        c = b + self.c(b).tanh()
        return self.head(c + a)


class UShaped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.bottom = nn.Conv2d(6, 6, 3, padding=1)
        self.up2, self.up1 = nn.Conv2d(12, 4, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x.view(-1, 2, 2, 2)).relu()
        low = self.down2(F.avg_pool2d(high, 2)).relu()
        bottom = self.bottom(low).relu()
        up = self.up2(torch.cat((bottom, low), 1)).relu()
        up = self.up1(torch.cat((F.interpolate(up, scale_factor=2), high), 1)).relu()
        return self.head(up.mean((2, 3)))


RESIDUAL = ["a", "b", "c"]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "chain": (chain, {}),
    "chain, manual optimizer": (chain, {"optim": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)}),
    "conditioned": (chain, {"context_size": CLASSES}),
    "critic": (chain, {"context_size": CLASSES, "dni_network": "critic"}),
    "batch norm in the synthesizers": (chain, {"dni_network": "linear_batchnorm"}),
    "untrained synthesizers": (chain, {"train_synthesizers": False}),
    "no scale": (chain, {"scale_targets": False}),
    "blocks": (blocks, {"sites": ["0", "1", "2"]}),
    "sites within sites": (blocks, {"sites": ["0", "1", "1.0", "2"]}),
    "convolutions": (convolutions, {}),
    "recurrent": (Recurrent, {}),
    "two outputs": (Forked, {"sites": ["lower", "fork", "joined"]}),
    "frozen parts": (frozen, {}),
    "residual": (Residual, {}),
    "residual, three sites": (Residual, {"sites": RESIDUAL}),
    "u-shaped": (UShaped, {}),
    "u-shaped, few sites": (UShaped, {"sites": ["down1", "bottom", "up2"]}),
    "warm-up by site": (
        Residual,
        {"sites": RESIDUAL, "λ": lambda n: {"a": 0.5 * (n < 4), "b": 0, "c": 1.0 * (n < 6)}},
    ),
    "zero by site": (Residual, {"sites": RESIDUAL, "λ": {"a": 0, "b": 0.0, "c": 0}}),
    "now and then": (chain, {"λ": lambda n: 0.0 if n % 3 else 0.5}),
    "warm-up": (chain, {"λ": lambda updates: max(0.0, 1 - updates / 5)}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def wrap(name: str = "chain", *, unlock: str = "update", **kwargs: Any) -> DNI:
    build, options = NETWORKS[name]
    torch.manual_seed(1)
    settings = {"λ": 0.0, "grad_lr": 0.02, **options, **kwargs}
    return DNI(build(), unlock=unlock, **settings)  # type: ignore[arg-type]


def batches(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def batch() -> tuple[Tensor, Tensor]:
        x = torch.randn(BATCH, WIDTH, generator=generator)
        return x, torch.randint(CLASSES, (BATCH,), generator=generator)

    return [batch() for _ in range(count)]


def loss_of(net: DNI, x: Tensor, y: Tensor, run: Callable[..., Tensor] | None = None) -> Tensor:
    conditioned = net.interfaces.context_size is not None
    return F.cross_entropy(
        (net if run is None else run)(x, **({"context": y} if conditioned else {})), y
    )


def train(net: DNI, data: list[tuple[Tensor, Tensor]], **kwargs: Any) -> list[float]:
    losses = []
    for x, y in data:
        loss = loss_of(net, x, y, **kwargs)
        loss.backward()
        losses.append(loss.item())
    return losses


def tensors(net: DNI) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in net.state_dict().items() if isinstance(v, Tensor)}


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, exact: bool = False) -> None:
    assert a.keys() == b.keys()
    for key, value in a.items():
        if exact:
            assert torch.equal(value, b[key]), key
        else:  # statistics are kept in single precision
            close = 1e-9 if value.dtype == DOUBLE and "interfaces" not in key else 1e-4
            torch.testing.assert_close(value, b[key], rtol=close, atol=close, msg=key)


def synthesizers_are_awake(net: DNI) -> bool:
    return any(found["synthetic_norm"] > 0 for found in net.statistics().values())


@pytest.mark.filterwarnings("ignore:.*never been trained")
@every_network
def test_it_learns_what_lambda_zero_learns(name: str) -> None:
    unlocked, mixed = wrap(name), wrap(name, unlock="none")
    start = tensors(unlocked)
    for step, batch in enumerate(batches(20)):
        losses = train(unlocked, [batch]) + train(mixed, [batch])
        assert losses[0] == pytest.approx(losses[1], rel=1e-9), step
    if name != "untrained synthesizers":
        assert synthesizers_are_awake(mixed)
    assert_same(tensors(unlocked), tensors(mixed))
    assert any(not torch.equal(v, start[k]) for k, v in tensors(unlocked).items())
    for site, found in unlocked.statistics().items():
        assert found == pytest.approx(mixed.statistics()[site], rel=1e-3, nan_ok=True)


@pytest.mark.parametrize("name", ["chain", "blocks", "critic"])
def test_on_a_chain_it_does_so_bit_for_bit(name: str) -> None:
    unlocked, mixed = wrap(name), wrap(name, unlock="none")
    assert train(unlocked, batches(20)) == train(mixed, batches(20))
    assert_same(tensors(unlocked), tensors(mixed), exact=True)


@pytest.mark.parametrize("name", ["chain", "blocks", "residual", "u-shaped", "two outputs"])
def test_by_hand_gradients_are_those_of_lambda_zero(name: str) -> None:
    unlocked, mixed = (wrap(name, unlock=u, update="manual") for u in ("update", "none"))
    for x, y in batches(8):
        for net in (unlocked, mixed):
            loss_of(net, x, y).backward()
        for (key, a), b in zip(unlocked.named_parameters(), mixed.parameters(), strict=True):
            if "meter" in key:
                continue
            assert (a.grad is None) == (b.grad is None), key
            if a.grad is not None:
                close = 1e-5 if "interfaces" in key else 1e-9
                torch.testing.assert_close(a.grad, b.grad, rtol=close, atol=close, msg=key)
        for net in (unlocked, mixed):
            net.step()
            net.zero_grad()
    assert synthesizers_are_awake(mixed)
    assert_same(tensors(unlocked), tensors(mixed))


def test_by_hand_nothing_steps_during_forward() -> None:
    net = wrap(update="manual")
    before = tensors(net)
    loss_of(net, *batches(1)[0]).backward()
    for key, parameter in net.network.named_parameters():
        assert torch.equal(parameter, before[f"network.{key}"])


def test_a_module_called_twice_gathers_both_gradients() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(self.layer(x).tanh()).tanh())

    nets = []
    for unlock in ("update", "none"):
        torch.manual_seed(0)
        nets.append(DNI(Tied(), λ=0, unlock=unlock, update="manual", grad_lr=0.02))  # type: ignore[arg-type]
    for x, y in batches(8):
        for net in nets:
            loss_of(net, x, y).backward()
        for a, b in zip(nets[0].network.parameters(), nets[1].network.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad)
        for net in nets:
            net.step()
            net.zero_grad()
    assert synthesizers_are_awake(nets[1])


@pytest.mark.parametrize("name", ["chain", "residual", "convolutions"])
def test_the_input_gets_the_gradient_it_would_get(name: str) -> None:
    unlocked, mixed = wrap(name), wrap(name, unlock="none")
    for x, y in batches(12):
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        for net, input in zip((unlocked, mixed), inputs, strict=True):
            loss_of(net, input, y).backward()
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    assert inputs[0].grad is not None
    assert inputs[0].grad.any()


def test_a_loss_may_look_at_what_lies_between() -> None:
    nets = [wrap("blocks"), wrap("blocks", unlock="none")]
    for x, y in batches(12):
        for net in nets:
            seen: list[Tensor] = []
            handle = net.network[1].register_forward_hook(lambda m, i, out, s=seen: s.append(out))
            loss = loss_of(net, x, y) + seen[0].square().mean()
            handle.remove()
            del seen
            loss.backward()
    assert_same(*(tensors(net) for net in nets))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_within_a_site_change_nothing(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    def network() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(
            *(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(3)),
            nn.Linear(WIDTH, CLASSES),
        )

    plain, checkpointed = network(), network()
    for i in range(1, 3):
        checkpointed[i] = Checkpointed(checkpointed[i])  # type: ignore[index]
    options: dict[str, Any] = {"sites": ["0", "1", "2"], "λ": 0, "unlock": "update"}
    nets = [DNI(each, grad_lr=0.02, **options) for each in (plain, checkpointed)]
    assert train(nets[0], batches(12)) == train(nets[1], batches(12))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_around_sites_change_nothing(reentrant: bool) -> None:
    class Around(nn.Sequential):
        is_checkpointed = True

        def forward(self, x: Tensor) -> Tensor:
            *below, head = self
            for block in below:
                again = self.is_checkpointed
                x = checkpoint(block, x, use_reentrant=reentrant) if again else block(x)
            return head(x)

    nets = []
    for is_checkpointed in (False, True):
        torch.manual_seed(1)
        network = Around(*blocks().children())
        for block in list(network)[:3]:
            del block[1]  # a batch norm would see its batch twice
        network.is_checkpointed = is_checkpointed
        # Not re-entrant, what a synthesizer saw is run again by a module that has stepped since.
        options: dict[str, Any] = {"update": "auto" if reentrant else "manual"}
        options |= {"sites": ["0", "1", "2"], "grad_lr": 0.02}
        nets.append(DNI(network, λ=0, unlock="update", **options))
    for x, y in batches(12):
        losses = [train(net, [(x.clone().requires_grad_(), y)]) for net in nets]
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        if not reentrant:
            for net in nets:
                net.step()
                net.zero_grad()
    assert synthesizers_are_awake(nets[1])


def test_the_target_of_a_leaf_is_the_sum_over_its_consumers() -> None:
    net = wrap("residual, three sites", update="manual", scale_targets=False)
    with torch.no_grad():
        for interface in net.interfaces.values():
            for parameter in interface.synthesizer.parameters():
                parameter.copy_(torch.randn_like(parameter) / 4)
    x, y = batches(1)[0]
    loss_of(net, x, y).backward()

    m, says = net.network, {site: net.interfaces[site].predict for site in RESIDUAL}
    with net.paused():
        out_a = m.a(x).detach().requires_grad_()
        a = m.norm(out_a).tanh()
        out_b = m.b(a)
        leaf_b = out_b.detach().requires_grad_()
        b = a + leaf_b.tanh()
        out_c = m.c(b)
        leaf_c = out_c.detach().requires_grad_()
        loss = F.cross_entropy(m.head(b + leaf_c.tanh() + a), y)
    s_b, s_c = says["b"](out_b.detach()).detach(), says["c"](out_c.detach()).detach()
    from_b, from_c = (
        torch.autograd.grad(out_b, out_a, s_b, retain_graph=True)[0],
        torch.autograd.grad(out_c, [out_a, leaf_b], s_c, retain_graph=True),
    )
    from_loss = torch.autograd.grad(loss, [out_a, leaf_b, leaf_c])
    true = {
        "a": from_b + from_c[0] + from_loss[0],
        "b": from_c[1] + from_loss[1],
        "c": from_loss[2],
    }
    activations = {"a": out_a.detach(), "b": out_b.detach(), "c": out_c.detach()}
    for site, target in true.items():
        parameters = list(net.interfaces[site].synthesizer.parameters())
        regression = (says[site](activations[site]) - target).square().sum() / BATCH
        for p, expected in zip(
            parameters, torch.autograd.grad(regression, parameters), strict=True
        ):
            torch.testing.assert_close(p.grad, expected)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_with_exact_synthesizers_it_is_backprop(optimizer: Any) -> None:
    torch.manual_seed(0)
    sizes = [WIDTH, WIDTH, WIDTH, CLASSES]
    layers = [nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
    network = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
    plain = copy.deepcopy(network)
    now: dict[str, Tensor] = {}

    def exact(above: list[nn.Linear]) -> type[DNINetwork]:
        class Exact(DNINetwork):
            def forward(self, input: Tensor, hidden: Any) -> tuple[Tensor, Any]:
                with torch.enable_grad():
                    leaf = value = input.detach().requires_grad_()
                    for layer in above:
                        value = F.linear(value.tanh(), layer.weight, layer.bias)
                    loss = F.cross_entropy(value, now["y"])
                    return torch.autograd.grad(loss, leaf)[0], hidden

        return Exact

    net = DNI(
        network,
        dni_network={str(2 * i): exact(layers[i + 1 :]) for i in range(3)},
        optim=lambda p: optimizer(p, lr=0.05),
        λ=0,
        scale_targets=False,
        unlock="update",
    )
    reference = optimizer(plain.parameters(), lr=0.05)
    for x, y in batches(20):
        now["y"] = y
        F.cross_entropy(net(x), y).backward()
        reference.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        reference.step()
    for a, b in zip(network.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert all(found["cosine"] == pytest.approx(1) for found in net.statistics().values())


def test_a_site_may_move_before_the_backward_pass() -> None:
    net, twin = wrap("blocks"), wrap("blocks")
    data = batches(5)
    for each in (net, twin):
        train(each, data[:4])
    x, y = data[4]
    loss = loss_of(net, x, y)
    net.network[0].float()
    loss.backward()
    train(twin, [(x, y)])
    net.network[0].double()
    after, expected = tensors(net), tensors(twin)
    moved = "network.0."
    assert_same(*({k: v for k, v in s.items() if moved not in k} for s in (after, expected)))


def test_saved_activations_do_not_grow_with_depth() -> None:
    def peak(depth: int, unlock: str) -> int:
        layers = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()) for _ in range(depth)]
        sites = [str(i) for i in range(depth)]
        network = nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))
        net = DNI(network, λ=0, sites=sites, unlock=unlock)  # type: ignore[arg-type]
        parameters = {p.data_ptr() for p in net.parameters()}
        alive, most = 0, 0

        class Packed:
            def __init__(self, tensor: Tensor) -> None:
                self.tensor = tensor

        def drop(size: int) -> None:
            nonlocal alive
            alive -= size

        def pack(tensor: Tensor) -> Packed:
            nonlocal alive, most
            packed = Packed(tensor.detach())
            size = 0 if tensor.data_ptr() in parameters else tensor.nbytes
            weakref.finalize(packed, drop, size)
            alive += size
            most = max(most, alive)
            return packed

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
            train(net, batches(1))
        return most

    assert peak(4, "update") == pytest.approx(peak(32, "update"), rel=0.05)
    assert peak(4, "update") < peak(32, "none") / 4


STARTS = ["chain", "blocks", "residual", "warm-up", "now and then", "u-shaped"]


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("keep", [False, True])
def test_a_backward_that_never_comes_is_forgotten(name: str, keep: bool) -> None:
    net = wrap(name)
    train(net, batches(6))
    kept = [loss_of(net, x, y) for x, y in batches(2, seed=1)]
    if not keep:
        kept.clear()
    twin = wrap(name)
    train(twin, batches(1))  # interfaces that are made on the way
    twin.load_training_state(copy.deepcopy(net.training_state()))
    updates = net.updates
    assert train(net, batches(4, seed=2)) == train(twin, batches(4, seed=2))
    assert net.updates == updates + 4
    assert_same(tensors(net), tensors(twin), exact=True)


@pytest.mark.parametrize("name", STARTS)
def test_an_exception_in_the_midst_of_a_forward_pass_is_forgotten(name: str) -> None:
    net = wrap(name)
    train(net, batches(6))
    last = list(net.network.children())[-1]

    def fail(*_: Any) -> None:
        raise RuntimeError("it broke")

    handle = last.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="it broke"):
        loss_of(net, *batches(1, seed=1)[0])
    handle.remove()
    twin = wrap(name)
    train(twin, batches(1))
    twin.load_training_state(copy.deepcopy(net.training_state()))
    assert train(net, batches(4, seed=2)) == train(twin, batches(4, seed=2))
    assert_same(tensors(net), tensors(twin), exact=True)


class Blind(nn.Module):
    """The output of one site feeds nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.aside = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x).tanh()
        self.aside(hidden)
        return self.head(hidden)


def test_an_output_that_feeds_nothing_is_told_once() -> None:
    net = DNI(Blind(), λ=0, unlock="update")
    with pytest.warns(DNIWarning, match="'aside'") as told:
        train(net, batches(5))
    assert len(told) == 1
    assert "'layer'" not in str(told[0].message)


@pytest.mark.parametrize("λ", [0.5, 1.0, 1e-9, {"0": 0, "3": 0.5}, {"0": 0}])
def test_a_share_of_the_true_gradient_is_refused(λ: Any) -> None:
    with pytest.raises(ConfigError, match="λ=0"):
        DNI(chain(), λ=λ, unlock="update")
    with pytest.raises(ConfigError, match="λ=0"):
        DNI(chain(), lambda_=λ, unlock="update")


def test_the_default_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="λ=0"):
        DNI(chain(), unlock="update")


def test_with_another_share_set_later_it_waits_for_backward() -> None:
    unlocked, mixed = wrap(), wrap(unlock="none")
    for share in (0.0, 0.5, 1.0, 0.0):
        for net in (unlocked, mixed):
            net.λ = share
            train(net, batches(6, seed=int(4 * share)))
    assert_same(tensors(unlocked), tensors(mixed))


@pytest.mark.parametrize("unlock", ["updates", "", None, True])
def test_an_unknown_unlock_is_refused(unlock: Any) -> None:
    with pytest.raises(ConfigError, match="unlock"):
        DNI(chain(), λ=0, unlock=unlock)


def test_in_evaluation_and_without_grad_the_network_is_itself() -> None:
    net = wrap()
    train(net, batches(4))
    plain = copy.deepcopy(net.network)
    x, _ = batches(1, seed=3)[0]
    before = tensors(net)
    net.eval()
    output = net(x)
    assert torch.equal(output, plain.eval()(x))
    output.sum().backward()
    net.zero_grad()
    net.train()
    plain.train()
    with torch.no_grad():
        assert torch.equal(net(x), plain(x))
    after = tensors(net)
    moving = {key for key in before if "running" in key or "num_batches" in key}
    for key in before.keys() - moving:
        assert torch.equal(before[key], after[key]), key


def test_only_a_training_pass_moves_parameters_before_backward() -> None:
    net = wrap()
    train(net, batches(12))
    before = tensors(net)
    with net.paused():
        net(batches(1)[0][0])
    assert torch.equal(tensors(net)["network.3.weight"], before["network.3.weight"])
    net(batches(1)[0][0])
    assert not torch.equal(tensors(net)["network.3.weight"], before["network.3.weight"])


class Tied(nn.Module):
    """Reads out by the weight of its first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, WIDTH, bias=False)
        self.second, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.second(self.first(x).tanh()).tanh()
        return self.head(F.linear(h, self.first.weight.t()))


def test_a_weight_may_be_used_again_above_its_site() -> None:
    net = DNI(Tied(), unlock="update", λ=0, sites=["first", "second"])
    steps: list[int] = []
    net.optimizer.register_step_post_hook(lambda *_: steps.append(net.updates))
    for x, y in batches(4):
        before = net.network.first.weight.detach().clone()
        loss = loss_of(net, x, y)
        assert net.updates == 0 or not torch.equal(net.network.first.weight, before)
        loss.backward()
    assert net.updates == 4
    assert len(steps) == 4 * 3  # each site during the forward pass, the rest after it


def test_an_output_that_is_kept_keeps_nothing_of_its_pass() -> None:
    net = wrap("blocks")
    train(net, batches(3))
    kept = [loss_of(net, x, y) for x, y in batches(1)]
    assert net._updates.unlock is not None
    handovers = [*net._updates.unlock._waiting.values()]
    assert handovers
    train(net, batches(1))
    assert all(handover.foresight is None for handover in handovers), kept


def test_who_listens_to_a_synthesizer_hears_its_gradient() -> None:
    net, plain = (wrap("blocks", dni_network="critic", context_size=CLASSES) for _ in range(2))
    train(net, batches(2)), train(plain, batches(2))
    heard: list[Tensor] = []
    weight = net.interfaces.values()[0].synthesizer.get_parameter("first.weight")
    weight.register_post_accumulate_grad_hook(lambda p: heard.append(p.grad.clone()))
    train(net, batches(3)), train(plain, batches(3))
    assert len(heard) == 3
    assert_same(tensors(net), tensors(plain), exact=True)


@pytest.mark.parametrize("name", ["chain", "residual", "recurrent", "now and then"])
def test_a_saved_training_goes_on_bit_for_bit(name: str) -> None:
    net, resumed = wrap(name), wrap(name)
    train(net, batches(8))
    resumed.load_training_state(pickle.loads(pickle.dumps(net.training_state())))
    assert train(net, batches(6, seed=1)) == train(resumed, batches(6, seed=1))
    assert_same(tensors(net), tensors(resumed), exact=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize("name", ["chain", "residual"])
def test_copies_go_on_alike_and_apart(name: str, copied: Callable[[DNI], DNI]) -> None:
    net = wrap(name)
    train(net, batches(8))
    twin = copied(net)
    before = tensors(net)
    losses = train(twin, batches(6, seed=1))
    assert_same(tensors(net), before, exact=True)
    assert train(net, batches(6, seed=1)) == losses
    assert_same(tensors(net), tensors(twin), exact=True)


def test_a_copy_made_between_forward_and_backward_is_clean() -> None:
    net = wrap()
    train(net, batches(8))
    loss = loss_of(net, *batches(1, seed=1)[0])
    twin = copy.deepcopy(net)
    loss.backward()
    train(twin, batches(2, seed=2))


def test_after_detach_the_network_is_plain() -> None:
    net = wrap()
    train(net, batches(4))
    network = net.detach()
    plain = copy.deepcopy(network)
    x, y = batches(1)[0]
    for each in (network, plain):
        each.zero_grad()
        F.cross_entropy(each(x), y).backward()
    for a, b in zip(network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_compiled_it_falls_back_to_the_same_losses() -> None:
    torch._dynamo.reset()
    net, twin = wrap("blocks"), wrap("blocks")
    try:
        compiled = torch.compile(net, backend="aot_eager")
        losses = train(net, batches(6), run=compiled)
    finally:
        torch._dynamo.reset()
    assert losses == pytest.approx(train(twin, batches(6)), rel=1e-9)
    assert_same(tensors(net), tensors(twin))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_whole_it_says_what_compiles_it() -> None:
    torch._dynamo.reset()
    net = wrap("blocks")
    train(net, batches(2))
    try:
        with pytest.raises(torch._dynamo.exc.Unsupported, match=r"net\.compile\(\)"):
            train(net, batches(1), run=torch.compile(net, backend="eager", fullgraph=True))
    finally:
        torch._dynamo.reset()


def test_a_resnet_of_torchvision_trains_unlocked() -> None:
    torch.set_default_dtype(torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = import_torchvision().models
    nets = []
    for unlock in ("update", "none"):
        torch.manual_seed(0)
        network = models.resnet18(num_classes=CLASSES)
        block = models.resnet.BasicBlock
        nets.append(DNI(network, λ=0, sites=[block], unlock=unlock))  # type: ignore[arg-type]
    torch.manual_seed(0)
    losses: list[list[float]] = [[], []]
    for _ in range(3):
        x, y = torch.randn(4, 3, 32, 32), torch.randint(CLASSES, (4,))
        for net, mine in zip(nets, losses, strict=True):
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            mine.append(loss.item())
    assert all(torch.isfinite(torch.tensor(mine)).all() for mine in losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
