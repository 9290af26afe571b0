"""Training runs that pages share: data in three parts, networks, methods, choice of epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dni import DNI
from interleave import synchronize
from mnist import Images
from report import commit
from runs import Plan, Run
from workloads import CNN, FCN, PIXELS, Learn, backprop, make_optimizer

BATCH, UNITS, VALIDATION, RENEWAL = 256, 256, 5000, 5000
PARAMETERS = ("num_layers", "pool_size", "before_norm", "sobolev")  # of a synthesizer
EVALUATE_EVERY = 20  # updates at least: small data have epochs of one
NO_BACKPROP, BACKPROP, PLAIN, LABELS, CRITIC, SOBOLEV, SELDOM = METHODS = (
    "no backprop",
    "backprop",
    "DNI",
    "cDNI",
    "critic",
    "critic, Sobolev",
    "critic, every 2nd",
)
_COLOURS = "#999999", "#000000", "#0072b2", "#009e73", "#d55e00", "#cc79a7", "#e69f00"
COLOURS = dict(zip(METHODS, _COLOURS, strict=True))

# One choice each for all data and all depths; λ = 0, so no true gradient crosses an interface.
SYNTHESIS: dict[str, dict[str, Any]] = {
    PLAIN: {"dni_network": "linear", "num_layers": 0, "grad_lr": 1e-2},
    LABELS: {"dni_network": "linear", "num_layers": 0, "grad_lr": 1e-2},
    CRITIC: {"dni_network": "critic", "num_layers": 1, "hidden_size": 32, "grad_lr": 3e-3},
}
MAPS: dict[str, dict[str, Any]] = {
    "linear": {"dni_network": "conv2d"},
    "critic": {"num_layers": 0, "pool_size": 14},  # sees the paper's maps as they are
}
"""What replaces this where the hidden layers are convolutions."""
SYNTHESIS[SOBOLEV] = SYNTHESIS[CRITIC] | {"sobolev": 1.0}
SYNTHESIS[SELDOM] = SYNTHESIS[CRITIC] | {"num_layers": 0, "train_every": 2, "grad_lr": 6e-3}


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Samples `[N, features]` and labels `[N]`, in three parts."""

    train: tuple[Tensor, Tensor]
    """What is learned from."""
    valid: tuple[Tensor, Tensor] | None = None
    """What chooses the epoch; where there is none, the last one is taken."""
    test: tuple[Tensor, Tensor]
    """What is reported."""

    @property
    def counts(self) -> dict[str, int]:
        """Samples in each part."""
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: len(part[0]) if part else 0 for name, part in parts.items()}

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train[1].max()) + 1


def without_validation(images: Images) -> Data:
    """All MNIST images to train on, and those to test."""
    return Data(train=(images.train, images.train_labels), test=(images.test, images.test_labels))


def with_validation(images: Images, count: int = VALIDATION) -> Data:
    """MNIST with the last `count` images to train on held out; half of them where there are few."""
    keep = len(images.train) - min(count, len(images.train) // 2)
    return Data(
        train=(images.train[:keep], images.train_labels[:keep]),
        valid=(images.train[keep:], images.train_labels[keep:]),
        test=(images.test, images.test_labels),
    )


class Convolutional(nn.Sequential):
    """The paper's convolutions on flat images: max-pooling in the first block, then averages."""

    def __init__(self, layers: int, filters: int) -> None:
        super().__init__()
        self.unflatten = nn.Unflatten(1, (1, 28, 28))
        blocks, side = [], 28
        for layer in range(layers):
            pool = nn.AvgPool2d if layer else nn.MaxPool2d
            channels = filters if layer else 1
            blocks.append(CNN._block(channels, filters, pool(3, stride=2, padding=1)))
            side = (side + 1) // 2
        self.hidden = nn.Sequential(*blocks)
        self.flatten = nn.Flatten()
        self.output = nn.Linear(filters * side**2, 10)


def build(settings: dict[str, Any], data: Data) -> Convolutional | FCN:
    """The network that the settings name: blocks `hidden.0` and so on, and a layer `output`."""
    if settings["network"] == "CNN":
        return Convolutional(settings["layers"], settings["units"])
    network, features = FCN(settings["layers"], settings["units"]), data.train[0].shape[1]
    if (features, data.classes) != (PIXELS, network.output.out_features):
        first = network.hidden[0]
        assert isinstance(first, nn.Sequential)
        first[0] = nn.Linear(features, settings["units"])
        network.output = nn.Linear(settings["units"], data.classes)
    return network


def settings_of(method: str, *, network: str, layers: int, units: int = UNITS) -> dict[str, Any]:
    """Everything about a method on a network that its figures depend on."""
    settings: dict[str, Any] = {"network": network, "layers": layers, "units": units}
    if method not in SYNTHESIS:
        return settings
    synthesis = {"hidden_size": units, **SYNTHESIS[method]}
    if network == "CNN":
        synthesis |= MAPS[synthesis["dni_network"]]
    return settings | synthesis


def mnist_settings(data: Data, *, steps: int) -> dict[str, Any]:
    """What all MNIST runs say of themselves besides their method, so that pages can share them."""
    count, device = data.counts["train"], data.train[0].device.type
    return {"steps": steps, "data": "MNIST", "images": count, "device": device}


def learner(
    method: str, network: Convolutional | FCN, settings: dict[str, Any]
) -> tuple[nn.Module, Learn]:
    """What to train and evaluate, and its training step.

    Settings without a synthesizer are plain backprop. Those with one have λ = 0, see the labels
    and unlock nothing, unless `lambda`, `context` and `options` say otherwise; the context may be
    `"image"`, what the network itself sees.
    """
    if method == NO_BACKPROP:
        network.hidden.requires_grad_(False)
    if "dni_network" not in settings:
        return network, backprop(network)
    context = settings.get("context", method != PLAIN)
    sizes = {"image": PIXELS, True: network.output.out_features, False: None}
    wrapped = DNI(
        network,
        dni_network=settings["dni_network"],
        dni_params={k: settings[k] for k in PARAMETERS if k in settings},
        optim=make_optimizer,
        grad_lr=settings["grad_lr"],
        hidden_size=settings["hidden_size"],
        lambda_=settings.get("lambda", 0.0),
        sites=[f"hidden.{index}" for index in range(settings["layers"])],
        context_size=sizes[context],
        train_every=settings.get("train_every", 1),
        **settings.get("options", {}),
    )

    def learn(value: Tensor, target: Tensor) -> None:
        if context:
            output = wrapped(value, context=value if context == "image" else target)
        else:
            output = wrapped(value)
        nn.functional.cross_entropy(output, target).backward()

    return wrapped, learn


def train(plan: Plan, data: Data) -> Run:
    """Train one method with one seed: `settings["steps"]` updates, evaluated every epoch or few."""
    method, seed, settings = plan
    torch.manual_seed(seed)
    built = build(settings, data).to(data.train[0].device)
    network, learn = learner(method, built, settings)
    title = f"{settings['network']} {settings['layers']}, {method}, seed {seed}"
    run = Run(
        row=method,
        seed=seed,
        settings=settings,
        errors=[],
        validation=[],
        seconds=0.0,
        cosines={},
        commit=commit(),
    )
    seconds, left = 0.0, settings["steps"]
    # One of its own, so that every method sees the same batches.
    shuffling = torch.Generator().manual_seed(seed)
    with tqdm(total=left, desc=title, unit="step", disable=None) as bar:
        while left:
            start = time.perf_counter()
            goal = max(0, left - EVALUATE_EVERY)
            while left > goal:
                for batch in batches(len(data.train[0]), shuffling, limit=left):
                    learn(data.train[0][batch], data.train[1][batch])
                    bar.update()
                    left -= 1
            synchronize(data.train[0].device)
            seconds += time.perf_counter() - start
            run.errors.append(percent_wrong(network, *data.test))
            if data.valid:
                run.validation.append(percent_wrong(network, *data.valid))
            if count := settings.get("renewal"):
                with renewed_statistics(network, data.train[0][:count]):
                    run.renewed.append(percent_wrong(network, *data.test))
                    if data.valid:
                        run.renewed_validation.append(percent_wrong(network, *data.valid))
            bar.set_postfix_str(f"{run.errors[-1]:.2f} % wrong")
    print(f"{title}: test error {selected(run):.2f} %, {seconds:.0f} s", flush=True)
    found = network.statistics() if isinstance(network, DNI) else {}
    cosines = {site: statistics["cosine"] for site, statistics in found.items()}
    return Run(**asdict(run) | {"seconds": seconds, "cosines": cosines})


def batches(count: int, generator: torch.Generator, *, limit: int) -> Iterator[Tensor]:
    """Indices of an epoch's batches, `limit` at most; BatchNorm needs two samples in each."""
    order = torch.randperm(count, generator=generator).split(BATCH)
    yield from [batch for batch in order if len(batch) > 1][:limit]


def steps_per_epoch(data: Data) -> int:
    """Updates in one epoch."""
    whole, rest = divmod(len(data.train[0]), BATCH)
    return whole + (rest > 1)


def selected(run: Run) -> float:
    """Test error after the epoch that was best in validation; without one, after the last."""
    if not run.validation:
        return run.errors[-1]
    return run.errors[run.validation.index(min(run.validation))]


def renewed(run: Run) -> float:
    """The same with the statistics of BatchNorm taken anew."""
    return run.renewed[run.renewed_validation.index(min(run.renewed_validation))]


@contextmanager
def renewed_statistics(network: nn.Module, samples: Tensor) -> Iterator[None]:
    """Evaluate with BatchNorm's statistics over `samples` during a ``with`` block.

    Running averages are of the weights of some ten updates, not of those that are evaluated.
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    kept = [{k: v.clone() for k, v in norm.state_dict().items()} for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average
    with torch.no_grad():
        for some in samples.split(BATCH):
            network(some)
    try:
        yield
    finally:
        for norm, state, momentum in zip(norms, kept, momenta, strict=True):
            norm.load_state_dict(state)
            norm.momentum = momentum


@torch.no_grad()
def percent_wrong(network: nn.Module, samples: Tensor, labels: Tensor) -> float:
    """Share of the samples that the network gets wrong, in percent."""
    network.eval()
    wrong = [
        network(some).argmax(-1) != answers
        for some, answers in zip(samples.split(2048), labels.split(2048), strict=True)
    ]
    network.train()
    return 100 * float(torch.cat(wrong).double().mean())
