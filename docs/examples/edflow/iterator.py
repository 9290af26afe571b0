"""A small VUNet-like iterator, as it was for edflow but for numpy arrays, which are tensors now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dni.trainer.template_iterator import TemplateIterator, retrieve, update_loss_weights_inplace


class Model(nn.Module):
    """A variational autoencoder of images of 8 by 8 pixels.

    Args:
        latent: Size of the latent.
    """

    def __init__(self, latent: int = 8) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.mean, self.deviation = nn.Linear(64, latent), nn.Linear(64, latent)
        self.decoder = nn.Sequential(nn.Linear(latent, 64), nn.ReLU(), nn.Linear(64, 64))
        self.saved_tensors: dict[str, Tensor] = {}

    def forward(self, image: Tensor) -> Tensor:
        """The image again. Shape ``[B, 1, 8, 8]``."""
        found = self.encoder(image)
        mean, deviation = self.mean(found), self.deviation(found).exp()
        latent = mean + deviation * torch.randn_like(mean) * self.training
        self.saved_tensors = {"q_means": mean, "q_deviations": deviation}
        return self.decoder(latent).view_as(image)


class Iterator(TemplateIterator):
    """Trains a `Model`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.config["lr"])

    def step_op(self, model: nn.Module, image: Tensor, **kwargs: Any) -> dict[str, Any]:
        """One forward pass, and what may be done with it."""
        is_train = self.get_split() == "train"
        model.train(is_train)
        inputs = {"target": image}
        predictions = {"image": model(image)}
        predictions.update(model.saved_tensors)
        losses = self.criterion(inputs, predictions)
        loss = losses["batch"]["total"]

        def train_op() -> None:
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if retrieve(self.config, "debug_loss", default=False):
                self.logger.info("loss %s", loss.item())

        def log_op() -> dict[str, Any]:
            with torch.no_grad():
                return self.prepare_logs(inputs, predictions, losses, "batch")

        def eval_op() -> dict[str, Any]:
            with torch.no_grad():
                logs = self.prepare_logs(inputs, predictions, losses, "instances")
            return {**logs["images"], "labels": logs["scalars"]}

        return {"train_op": train_op, "log_op": log_op, "eval_op": eval_op}

    def prepare_logs(
        self,
        inputs: dict[str, Tensor],
        predictions: dict[str, Tensor],
        losses: dict[str, dict[str, Tensor]],
        granularity: str,
    ) -> dict[str, Any]:
        """Images ``[B, H, W, C]`` from -1 to 1, and losses of the batch or of the instances."""
        images = {"target": inputs["target"], "image": predictions["image"]}
        return {
            "images": {k: v.permute(0, 2, 3, 1).clamp(-1, 1) for k, v in images.items()},
            "scalars": {f"loss_{k}": v for k, v in losses[granularity].items()},
        }

    def criterion(
        self, inputs: dict[str, Tensor], predictions: dict[str, Tensor]
    ) -> dict[str, dict[str, Tensor]]:
        """All losses, for each instance and for the batch."""
        update_loss_weights_inplace(self.config["losses"], self.get_global_step())
        difference = (predictions["image"] - inputs["target"]).flatten(1)
        mean, deviation = predictions["q_means"], predictions["q_deviations"]
        instances = {
            "color_L1": difference.abs().mean(1),
            "color_L2": difference.square().mean(1),
            "KL": (mean.square() + deviation.square() - 1 - 2 * deviation.log()).sum(1) / 2,
        }
        weights = self.config["losses"]
        instances["total"] = sum(
            (weights[key]["weight"] * instances[key] for key in weights), torch.zeros(len(mean))
        )
        return {"instances": instances, "batch": {k: v.mean() for k, v in instances.items()}}


def worst(root: Path, data_in: Any, data_out: Any, config: dict[str, Any]) -> dict[str, Any]:
    """An evaluation callback: which example was reconstructed worst, and how well all were."""
    losses = torch.as_tensor(data_out.labels["loss_color_L1"].copy())
    index = int(losses.argmax())
    shown = torch.cat([torch.as_tensor(data_out[index][k]) for k in ("target", "image")], dim=1)
    return {
        "scalars": {"mean_L1": losses.mean(), "index": index, "label": data_in[index]["label"]},
        "images": {"worst": ((shown[..., 0] + 1) * 127.5).to(torch.uint8)},
    }
