"""The usage examples of the document the project started from, typos corrected, run for real."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

import dni

EVERY_LEAF = """
from dni import DNI

# Parent network, can be anything extending nn.Module
net = WhateverNetwork(**kwargs)
opt = optim.Adam(net.parameters(), lr=0.001)

# use DNI to optimize this network
net = DNI(net, grad_optim='adam', grad_lr=0.0001)

# after that we go about our business as usual
for e in range(epoch):
  opt.zero_grad()
  output = net(input, *args)
  loss = criterion(output, target_output)
  loss.backward()

  # Optional: do this to __also__ update net's weight using backprop
  # opt.step()
  losses.append(loss.item())
"""

CUSTOM_LAYER = """
from dni import *

class Net(nn.Module):
  def __init__(self, num_layers=3, hidden_size=256, dni_layers=[]):
    super(Net, self).__init__()
    self.num_layers = num_layers
    self.hidden_size = hidden_size
    self.net = [self.dni(self.layer(
        image_size*image_size if l == 0 else hidden_size,
        hidden_size
    )) if l in dni_layers else self.layer(
        image_size*image_size if l == 0 else hidden_size,
        hidden_size
    ) for l in range(self.num_layers)]
    self.final = self.layer(hidden_size, 10)

    # bind layers to this class (so that they're searchable by pytorch)
    for ctr, n in enumerate(self.net):
      setattr(self, 'layer'+str(ctr), n)

  def layer(self, input_size, hidden_size):
    return nn.Sequential(
      nn.Linear(input_size, hidden_size),
      nn.BatchNorm1d(hidden_size)
    )

  # create a DNI wrapper layer, recursive=False implies treat this layer as a leaf module
  def dni(self, layer):
    d = DNI(layer, hidden_size=256, grad_optim='adam', grad_lr=0.0001, recursive=False)
    return d

  def forward(self, x):
    output = x.view(-1, image_size*image_size)
    for layer in self.net:
      output = F.relu(layer(output))
    output = self.final(output)
    return F.log_softmax(output, dim=-1)

net = Net(num_layers=3, dni_layers=[1,2,3])

# use the gradient descent to optimize layers not optimized by DNI
opt = optim.Adam(net.final.parameters(), lr=0.001)

# after that we go about our business as usual
for e in range(epoch):
  opt.zero_grad()
  output = net(input)
  loss = criterion(output, target_output)
  loss.backward()
  opt.step()
  losses.append(loss.item())
"""

CUSTOM_SYNTHESIZER = """
from dni import *

# Custom DNI network
class MyCustomDNI(DNINetwork):
  def __init__(self, input_size, hidden_size, output_size, num_layers=2, bias=True):
    super(MyCustomDNI, self).__init__(input_size, hidden_size, output_size)

    self.input_size = input_size
    self.hidden_size = hidden_size * 4
    self.output_size = output_size
    self.num_layers = num_layers
    self.bias = bias

    self.net = [self.layer(
        input_size if l == 0 else self.hidden_size,
        self.hidden_size
    ) for l in range(self.num_layers)]

    # bind layers to this class (so that they're searchable by pytorch)
    for ctr, n in enumerate(self.net):
      setattr(self, 'layer'+str(ctr), n)

    # final layer (yeah, no kidding)
    self.final = nn.Linear(self.hidden_size, output_size)

  def layer(self, input_size, hidden_size):
      return nn.Linear(input_size, hidden_size)

  def forward(self, input, hidden):
    output = input
    for layer in self.net:
      output = F.relu(layer(output))
    output = self.final(output)
    return output, None

# Custom network, can be anything extending nn.Module
net = WhateverNetwork(**kwargs)
opt = optim.Adam(net.parameters(), lr=0.001)

# use DNI to optimize this network with MyCustomDNI, pass custom params to the DNI nets
net = DNI(net, grad_optim='adam', grad_lr=0.0001, dni_network=MyCustomDNI,
      dni_params={'num_layers': 3, 'bias': True})

# after that we go about our business as usual
for e in range(epoch):
  opt.zero_grad()
  output = net(input, *args)
  loss = criterion(output, target_output)
  loss.backward()
  losses.append(loss.item())
"""

INTERFACE = """
from dni import *

class MyDNI(DNINetwork):
  def __init__(self, input_size, hidden_size, output_size, **kwargs):
    super(MyDNI, self).__init__(input_size, hidden_size, output_size)
    self.output = nn.Linear(input_size, output_size)

  def forward(self, input, hidden):
    output = self.output(input)
    return output, hidden

net = DNI(WhateverNetwork(**kwargs), dni_network=MyDNI)
for e in range(epoch):
  loss = criterion(net(input), target_output)
  loss.backward()
  losses.append(loss.item())
"""


class WhateverNetwork(nn.Module):
    """What the document leaves to the reader."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(16, width), nn.BatchNorm1d(width), nn.ReLU())
        self.output = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.hidden(images))


def run(example: str, *, epochs: int = 60) -> dict[str, Any]:
    """Execute an example; returns its names."""
    centres = torch.randn(10, 16)
    labels = torch.arange(40) % 10
    names: dict[str, Any] = {
        "F": F,
        "WhateverNetwork": WhateverNetwork,
        "args": (),
        "criterion": F.cross_entropy,
        "epoch": epochs,
        "image_size": 4,
        "input": centres[labels] + 0.1 * torch.randn(40, 16),
        "kwargs": {"width": 32},
        "losses": [],
        "nn": nn,
        "optim": optim,
        "target_output": labels,
    }
    exec(compile(example, "seed example", "exec"), names)
    return names


def synthesizers(net: dni.DNI) -> list[nn.Module]:
    return [interface.synthesizer for interface in net.interfaces.values()]


@pytest.mark.parametrize(
    ("example", "epochs"),
    [(EVERY_LEAF, 300), (CUSTOM_LAYER, 60), (CUSTOM_SYNTHESIZER, 300), (INTERFACE, 100)],
    ids=["every-leaf", "custom-layer", "custom-synthesizer", "interface"],
)
def test_the_example_lowers_its_loss(example: str, epochs: int) -> None:
    losses = run(example, epochs=epochs)["losses"]
    assert losses[-1] < 0.8 * losses[0]


def test_every_leaf_learns_from_the_first_example() -> None:
    names = run(EVERY_LEAF, epochs=0)
    net = names["net"]
    assert list(net.interfaces) == ["hidden.0", "hidden.1", "output"]
    before = {name: p.clone() for name, p in net.named_parameters()}
    for _ in range(3):  # a first synthetic gradient is zero, so its synthesizer moves later
        F.cross_entropy(net(names["input"]), names["target_output"]).backward()
    still = [n for n, p in net.named_parameters() if torch.equal(p, before[n])]
    assert [name for name in still if not name.endswith("meter")] == []
    assert net.optimizer.defaults["lr"] == 0.0001
    assert net.optimizer.__class__ is optim.Adam


def test_the_user_may_step_an_optimizer_of_his_own_as_well() -> None:
    stepping = EVERY_LEAF.replace("# opt.step()", "opt.step()")
    assert stepping != EVERY_LEAF
    assert run(stepping)["losses"][-1] < 0.9 * run(EVERY_LEAF)["losses"][-1]


def test_layers_wrapped_one_by_one_learn_beside_layers_that_are_not() -> None:
    names = run(CUSTOM_LAYER, epochs=0)
    net = names["net"]
    assert [type(layer).__name__ for layer in net.net] == ["Sequential", "DNI", "DNI"]
    before = {name: p.clone() for name, p in net.named_parameters()}
    for _ in range(3):
        output = net(names["input"])
        names["opt"].zero_grad()
        F.nll_loss(output, names["target_output"]).backward()
        names["opt"].step()
    moved = {
        n.split(".")[0]
        for n, p in before.items()
        if not torch.equal(p, dict(net.named_parameters())[n])
    }
    assert moved == {"layer1", "layer2", "final"}, "layer0 has no optimizer in the document"
    for layer in net.net[1:]:
        assert list(layer.interfaces) == [""]
        assert layer.interfaces[""].synthesizer.hidden_size == 256
        assert layer.statistics()[""]["true_norm"] > 0


def test_a_custom_synthesizer_gets_its_parameters_and_learns() -> None:
    names = run(CUSTOM_SYNTHESIZER, epochs=0)
    net = names["net"]
    assert {type(s) for s in synthesizers(net)} == {names["MyCustomDNI"]}
    assert {(s.num_layers, s.bias, s.hidden_size) for s in synthesizers(net)} == {(3, True, 40)}
    before = [p.clone() for s in synthesizers(net) for p in s.parameters()]
    for _ in range(2):
        F.cross_entropy(net(names["input"]), names["target_output"]).backward()
    after = [p for s in synthesizers(net) for p in s.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_synthesizer_with_two_arguments_runs_unchanged_in_a_wrapper_with_context() -> None:
    names = run(INTERFACE, epochs=0)
    net = dni.DNI(WhateverNetwork(32), dni_network=names["MyDNI"], context_size=10)
    for _ in range(3):
        output = net(names["input"], context=names["target_output"])
        F.cross_entropy(output, names["target_output"]).backward()
    assert {s.input_size - s.output_size for s in synthesizers(net)} == {10}
    assert all(found["synthetic_norm"] > 0 for found in net.statistics().values())


def test_a_star_import_brings_exactly_the_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from dni import *", names)
    del names["__builtins__"]
    classes = (
        "DNI DNINetwork LinearDNI LinearSigmoidDNI LinearBatchNormDNI RNNDNI Conv2dDNI CriticDNI "
        "LabelFreeCriticDNI LeastSquaresDNI TemporalDNI"
    )
    errors = (
        "DNIError ConfigError SiteError ShapeError ContextError AttachmentError CheckpointError"
    )
    assert set(names) == {*classes.split(), *errors.split(), "DNIWarning"}
    assert all(names[name] is getattr(dni, name) for name in names)


def test_the_constructor_keeps_the_order_and_the_defaults_of_the_document() -> None:
    parameters = list(inspect.signature(dni.DNI).parameters.values())
    positional = [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [
        ("network", inspect.Parameter.empty),
        ("dni_network", None),
        ("dni_params", {}),
        ("optim", None),
        ("grad_optim", "adam"),
        ("grad_lr", 0.001),
        ("hidden_size", 10),
        ("λ", 0.5),
        ("recursive", True),
        ("gpu_id", -1),
    ]
