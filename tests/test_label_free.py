"""The critic without labels: its formula, and that it infers what nobody tells it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dni import DNI, ConfigError, LabelFreeCriticDNI


def test_it_is_the_expected_gradient_of_its_formula() -> None:
    torch.manual_seed(0)
    critic = LabelFreeCriticDNI(4, 7, 4, context_size=6, num_classes=3).double().eval()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.normal_()
    rows, context = torch.randn(5, 4).double(), torch.randn(5, 6).double()
    found = critic(rows.view(1, 5, 4), None, context.view(1, 5, 6))[0]
    expected = []
    for row, told in zip(rows, context, strict=True):
        q = critic.inference(told[None], None)[0][0]
        difference = (critic.head.weight @ row + critic.head.bias).softmax(0) - q.softmax(0)
        expected.append(difference @ critic.head.weight * critic.gain.exp() / 5)
    torch.testing.assert_close(found[0], torch.stack(expected), rtol=1e-12, atol=1e-12)


def test_it_infers_labels_that_it_is_never_told() -> None:
    torch.manual_seed(0)
    means = 2 * torch.randn(3, 8)
    network = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3)).requires_grad_(False)
    network[0].bias.requires_grad_()  # or the site would carry no gradient
    net = DNI(
        network,
        "label_free_critic",
        {"num_classes": 3},
        context_size=8,
        hidden_size=16,
        grad_lr=1e-2,
        update="manual",
        sites=["0"],
    )
    for _ in range(300):
        labels = torch.randint(3, (64,))
        inputs = means[labels] + torch.randn(64, 8)
        F.cross_entropy(net(inputs, context=inputs), labels).backward()
        net.step(network=False)
        net.zero_grad()
    assert net.statistics()["0"]["cosine"] > 0.9
    inference = net.interfaces["0"].synthesizer.inference
    guesses = inference(inputs, None)[0].argmax(1)
    # Which of its classes stands for which label is its own affair.
    counts = [
        [(guesses[labels == label] == g).sum().item() for g in range(3)] for label in range(3)
    ]
    assert sum(max(row) for row in counts) >= 0.9 * len(labels)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "context_size"),
        ({"context_size": 4, "num_classes": 1}, "num_classes"),
        ({"context_size": 4, "num_layers": -1}, "num_layers"),
    ],
)
def test_what_cannot_work_is_refused(given: dict[str, int], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        LabelFreeCriticDNI(4, 8, 4, **given)
