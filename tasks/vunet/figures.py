"""Stick figures drawn by the program: a person in a pose, an endless number of them.

A figure is a *pose*, where its joints are, and an *appearance*, the colours of its parts and how
stout it is. Both are drawn at random from a seed and a number, so that figure 123456 is the same
on every machine and nothing has to be stored or downloaded.
"""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dni.errors import ConfigError

Array = NDArray[numpy.float32]

JOINTS = 13
"""Hip, neck, head; then left and right: shoulder, elbow, hand, knee, foot."""
_HIP, _NECK, _HEAD = 0, 1, 2
_ARMS = ((3, 5, 7), (4, 6, 8))
_LEGS = ((0, 9, 11), (0, 10, 12))

PARTS = ("skin", "shirt", "trousers", "hat", "background")
PALETTE = 3 * len(PARTS) + 1
"""Numbers that tell an appearance: red, green and blue of every part, and the width of limbs."""


def draw_pose(rng: numpy.random.Generator) -> Array:
    """Joints of a random pose, ``[JOINTS, 2]``: x to the right and y down, in the unit square."""
    joints = numpy.zeros((JOINTS, 2))
    size = rng.uniform(0.9, 1.05)
    lean = rng.uniform(-0.25, 0.25)
    up = numpy.array([numpy.sin(lean), -numpy.cos(lean)])
    across = numpy.array([-up[1], up[0]])
    joints[_HIP] = 0.5 + rng.uniform(-0.07, 0.07), 0.57 + rng.uniform(-0.03, 0.03)
    joints[_NECK] = joints[_HIP] + 0.25 * size * up
    joints[_HEAD] = joints[_NECK] + 0.1 * size * _turned(up, rng.uniform(-0.2, 0.2))
    for (shoulder, elbow, hand), (_, knee, foot), side in zip(_ARMS, _LEGS, (-1, 1), strict=True):
        joints[shoulder] = joints[_NECK] + (0.03 * up * -1 + 0.07 * side * across) * size
        raised = rng.uniform(0.25, 2.7)  # 0 hangs down, pi points up
        joints[elbow] = joints[shoulder] + 0.15 * size * _turned(-up, -side * raised)
        bent = raised + rng.uniform(-0.3, 1.6)
        joints[hand] = joints[elbow] + 0.14 * size * _turned(-up, -side * bent)
        spread = rng.uniform(0.05, 0.75)
        joints[knee] = joints[_HIP] + 0.18 * size * _turned(-up, -side * spread)
        shin = spread - rng.uniform(-0.1, 0.5)
        joints[foot] = joints[knee] + 0.18 * size * _turned(-up, -side * shin)
    return joints.astype(numpy.float32)


def draw_palette(rng: numpy.random.Generator) -> Array:
    """A random appearance, ``[PALETTE]``: colours from 0 to 1 in the order of `PARTS`, width."""
    skin = numpy.array([0.45, 0.3, 0.2]) + rng.uniform(0, 1) * numpy.array([0.5, 0.5, 0.5])
    shirt, trousers, hat = (_colour(rng, vivid=True) for _ in range(3))
    ground = _colour(rng, vivid=False)
    width = rng.uniform(0.7, 1.3)
    return numpy.concatenate([skin, shirt, trousers, hat, ground, [width]]).astype(numpy.float32)


def paint(joints: Array, palette: Array, size: int) -> Array:
    """The person: an image ``[3, size, size]`` from 0 to 1."""
    skin, shirt, trousers, hat, ground = palette[:-1].reshape(-1, 3)
    width = float(palette[-1])
    limbs: list[tuple[int, int, float, Array]] = []
    for hip, knee, foot in _LEGS:
        limbs += [(hip, knee, 0.038, trousers), (knee, foot, 0.033, trousers)]
    limbs += [(_HIP, _NECK, 0.075, shirt), (_NECK, _HEAD, 0.03, skin), (_HEAD, _HEAD, 0.068, skin)]
    for shoulder, elbow, hand in _ARMS:
        limbs += [(shoulder, elbow, 0.034, shirt), (elbow, hand, 0.027, skin)]
    image = numpy.broadcast_to(ground[:, None, None], (3, size, size)).copy()
    starts, ends = joints[[a for a, *_ in limbs]], joints[[b for _, b, *_ in limbs]]
    cover = _capsules(starts, ends, numpy.array([r * width for _, _, r, _ in limbs]), size)
    for (*_, colour), mask in zip(limbs, cover, strict=True):
        image += mask * (colour[:, None, None] - image)
    crown = joints[_HEAD] + 0.4 * (joints[_HEAD] - joints[_NECK])
    sideways = 0.06 * numpy.array([[1.0, 0.0]], numpy.float32)
    (mask,) = _capsules(crown - sideways, crown + sideways, numpy.array([0.035]), size)
    image += mask * (hat[:, None, None] - image)
    painted: Array = image.astype(numpy.float32)
    return painted


def skeleton(joints: Array, size: int) -> Array:
    """The pose alone: an image ``[3, size, size]`` of thin lines on black.

    Red is the middle and the head, green the left side, blue the right one; legs are darker.
    """
    image = numpy.zeros((3, size, size))
    lines = [(_HIP, _NECK, 0, 1.0), (_NECK, _HEAD, 0, 0.6)]
    for channel, arm, leg in zip((1, 2), _ARMS, _LEGS, strict=True):
        for chain, value in ((arm, 1.0), (leg, 0.6)):
            lines += [(a, b, channel, value) for a, b in zip(chain, chain[1:], strict=False)]
    starts, ends = joints[[a for a, *_ in lines]], joints[[b for _, b, *_ in lines]]
    cover = _capsules(starts, ends, numpy.full(len(lines), 0.018), size)
    for (*_, channel, value), mask in zip(lines, cover, strict=True):
        image[channel] = numpy.maximum(image[channel], value * mask)
    return image.astype(numpy.float32)


class Figures(Dataset[dict[str, Any]]):
    """Samples for pose and appearance: the same person twice, in two poses.

    A sample has ``pose``, the skeleton to be dressed; ``appearance``, the person in another pose;
    ``target``, the person in that pose, all ``[3, size, size]`` from 0 to 1; and ``palette``
    ``[PALETTE]``, the appearance in numbers, which no network sees.

    Args:
        split: ``"train"`` or ``"test"``: two streams with no figure in common.
        count: Figures in an epoch. The stream itself has no end: any index can be drawn.
        size: Height and width of images.
        seed: Another stream.

    Raises:
        ConfigError: No such split, or numbers that cannot be.

    Example:
        >>> figures = Figures("test", count=10)
        >>> {key: value.shape for key, value in figures[123456].items()}
        {'pose': (3, 32, 32), 'appearance': (3, 32, 32), 'target': (3, 32, 32), 'palette': (16,)}
    """

    SPLITS = ("train", "test")

    def __init__(
        self, split: str = "train", *, count: int = 16384, size: int = 32, seed: int = 0
    ) -> None:
        if split not in self.SPLITS:
            raise ConfigError(f"`split` is {split!r}; 'train' or 'test' is needed.")
        if count < 1 or size < 8 or seed < 0:
            raise ConfigError(
                f"Figures were asked for with count={count}, size={size}, seed={seed}; at least "
                "1 figure of at least 8 pixels, and a seed from 0, are needed."
            )
        self.stream = (seed, self.SPLITS.index(split))
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Array]:
        joints, other, palette = self.parts(index)
        return {
            "pose": skeleton(joints, self.size),
            "appearance": paint(other, palette, self.size),
            "target": paint(joints, palette, self.size),
            "palette": palette,
        }

    def parts(self, index: int) -> tuple[Array, Array, Array]:
        """What a sample is drawn from: the pose, the pose of ``appearance``, and the palette."""
        rng = numpy.random.default_rng((*self.stream, index))
        return draw_pose(rng), draw_pose(rng), draw_palette(rng)


def _turned(vector: NDArray[Any], angle: float) -> NDArray[Any]:
    cosine, sine = numpy.cos(angle), numpy.sin(angle)
    turned: NDArray[Any] = numpy.array([[cosine, -sine], [sine, cosine]]) @ vector
    return turned


def _colour(rng: numpy.random.Generator, *, vivid: bool) -> NDArray[Any]:
    """Red, green and blue of a random hue: strong ones for clothes, pale ones for the ground."""
    hue = rng.uniform(0, 1)
    wheel = numpy.clip(numpy.abs((hue * 6 + numpy.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    saturation, value = (rng.uniform(0.6, 1), rng.uniform(0.4, 1)) if vivid else (0.25, 0.95)
    mixed: NDArray[Any] = value * (1 - saturation + saturation * wheel)
    return mixed


def _capsules(
    starts: NDArray[Any], ends: NDArray[Any], radii: NDArray[Any], size: int
) -> NDArray[Any]:
    """How far thick lines cover every pixel, from 0 to 1, smooth at their edges.

    Args:
        starts: Points in the unit square. Shape ``[N, 2]``.
        ends: The same.
        radii: Half the width of each. Shape ``[N]``.
        size: Height and width of the image.

    Returns:
        Shape ``[N, size, size]``.
    """
    ticks = (numpy.arange(size, dtype=numpy.float32) + 0.5) / size
    along = (ends - starts).astype(numpy.float32)
    length = numpy.maximum((along**2).sum(-1), 1e-12)
    # Axes of their own for x and y: [N, 1, size] and [N, size, 1].
    across, down = ticks - starts[:, :1], ticks - starts[:, 1:]
    across, down = across[:, None, :], down[:, :, None]
    x, y = along[:, 0, None, None], along[:, 1, None, None]
    share = (across * x + down * y) / length[:, None, None]
    share = numpy.minimum(numpy.maximum(share, 0), 1)
    distance = numpy.sqrt((across - share * x) ** 2 + (down - share * y) ** 2)
    cover = (radii.astype(numpy.float32)[:, None, None] - distance) * size + 0.5
    clipped: NDArray[Any] = numpy.minimum(numpy.maximum(cover, 0), 1)
    return clipped
