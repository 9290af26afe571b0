"""What a linear synthesizer computes at a seam, as compiled code: a question and a lesson."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim

from .arrival import Arrival, learn
from .context import conditioned
from .errors import ConfigError, did_you_mean
from .expectation import bounded, longest_of
from .linear_map import Call, LinearMap, Said, gradients_of
from .sites import SiteName
from .states import Form, asinh

BATCH = Dim("batch", min=2)
"""Any number of sequences; of one alone, a compiler takes other ways."""


class Asked(NamedTuple):
    """What asking a synthesizer at a window's end has brought.

    Attributes:
        rows: The whole state of each sequence, a copy. Shape ``[B, S]``.
        said: The prediction, with what it was made from.
        gradients: What is sent into the tensors of the state.
    """

    rows: Tensor
    said: Said
    gradients: list[Tensor]


class Question(nn.Module):
    """Asks a linear map at a window's end (see `dni.seam.Seam`).

    Args:
        batch_dim: Axis of the sequences in every tensor of the state.
        limit: Largest root mean square of a prediction.
        compress: Whether the map sees asinh of the state.
        site: Name for error messages.
    """

    def __init__(
        self, batch_dim: int, *, limit: float | None, compress: bool, site: SiteName
    ) -> None:
        super().__init__()
        self.batch_dim, self.limit, self.compress, self.site = batch_dim, limit, compress, site

    def forward(
        self,
        state: list[Tensor],
        context: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        scale: Tensor,
        share: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Ask.

        Args:
            state: The tensors of the state.
            context: Features of the context. Shape ``[B, C]``.
            weight: Of the map. Shape ``[S, F]``.
            bias: Of the map. Shape ``[S]``.
            scale: Unit of its predictions. Shape ``[]``.
            share: Factor on them where they are used. Shape ``[]``.

        Returns:
            The rows of the state ``[B, S]``, what the map saw of them ``[B, F]``, its prediction
            ``[B, S]``, and gradients for the tensors of the state.
        """
        form = Form(state, self.batch_dim)
        rows = form.join(state).clone()
        # Each for itself, then side by side: a compiler makes vectors of it in that order alone.
        seen = form.join([asinh(tensor) for tensor in state]) if self.compress else rows.clone()
        if context is not None:
            seen = conditioned(seen, context, site=self.site)
        prediction = LinearMap(weight, bias).say(seen)
        sent = bounded(prediction, longest_of(prediction, self.limit)) * (scale * share)
        gradients = [t.clone(memory_format=torch.contiguous_format) for t in form.split(sent)]
        return rows, seen, prediction, gradients


class Lesson(nn.Module):
    """Learns from the gradients at a window's start, see `dni.linear_map.LinearStart`."""

    def __init__(self, batch_dim: int, *, has_bias: bool) -> None:
        super().__init__()
        self.batch_dim, self.has_bias = batch_dim, has_bias

    def forward(
        self, gradients: list[Tensor], seen: Tensor, prediction: Tensor, inverse_scale: Tensor
    ) -> tuple[Tensor, ...]:
        """Learn.

        Args:
            gradients: Of the tensors of the state.
            seen: What the map saw. Shape ``[B, F]``.
            prediction: What it said. Shape ``[B, S]``.
            inverse_scale: 1 / ρ. Shape ``[]``.

        Returns:
            Gradients of the meter ``[5]``, of the weight ``[S, F]``, and of the bias ``[S]``.
        """
        form = Form(gradients, self.batch_dim)
        residual, sums = learn(form.join(gradients), prediction, Arrival(inverse_scale, form))
        return sums, *gradients_of(residual, seen, has_bias=self.has_bias)


class Compiled(NamedTuple):
    """The two calls for states of one kind."""

    ask: Call
    learn: Call


class CompiledSeam:
    """Compiles the question and the lesson: for the first batch size it sees, then for any other.

    The code is made ahead of time, by ``torch.export`` and AOTInductor: in a window of a few steps
    of a small network, what ``torch.compile`` checks before each call takes as long as it saves.
    It does not check its arguments itself; they need the types and shapes it was made for, and
    memory without gaps, which `ask` sees to here and `dni.linear_map.LinearStart` for the lesson.

    Args:
        batch_dim: Axis of the sequences in every tensor of the state.
        limit: See `TemporalDNI`.
        compress: See `TemporalDNI`.
        site: Name for error messages.
        options: Options of the compiler, see ``torch._inductor.list_options()``.
    """

    def __init__(
        self,
        batch_dim: int,
        *,
        limit: float | None,
        compress: bool,
        site: SiteName,
        options: Mapping[str, Any],
    ) -> None:
        self._question = Question(batch_dim, limit=limit, compress=compress, site=site)
        self._batch_dim, self._options = batch_dim, options
        self._compiled: dict[tuple[int | None, Any], Compiled] = {}
        self._share = 1.0, torch.ones((), dtype=torch.float64, device="cpu")

    def ask(
        self,
        linear: LinearMap,
        state: list[Tensor],
        form: Form,
        context: Tensor | None,
        *,
        scale: Tensor,
        share: float,
    ) -> Asked | None:
        """Ask a linear map at a window's end, see `Question`.

        Returns:
            The answer; ``None`` where it has to be asked as usual: on another device than the CPU,
            and where tensors do not lie as compiled code needs them.

        Raises:
            ConfigError: The compiler failed, or there is none.
        """
        weight, bias = linear
        kind = weight.dtype
        if context is not None:
            context = context.to(kind)
        given = [*state, *([] if context is None else [context]), weight]
        if bias is not None:
            given.append(bias)
        if not all([t.is_cpu and t.dtype is kind and t.is_contiguous() for t in given]):
            return None
        if context is not None and context.shape[:-1] != (form.batch,):
            return None
        compiled = self._compiled_for(linear, state, form, context, scale)
        if compiled is None:
            return None
        if self._share[0] != share:
            self._share = share, torch.tensor(share, dtype=torch.float64, device="cpu")
        rows, seen, prediction, *gradients = compiled.ask([*given, scale, self._share[1]])
        said = Said(linear, seen, prediction, learn=compiled.learn, layout=form.layout)
        return Asked(rows, said, gradients)

    def _compiled_for(
        self,
        linear: LinearMap,
        state: list[Tensor],
        form: Form,
        context: Tensor | None,
        scale: Tensor,
    ) -> Compiled | None:
        """The two calls for such a state, made if need be; ``None`` for a later batch of one."""
        weight, bias = linear
        width = None if context is None else context.shape[-1]
        kind = form.layout, weight.dtype, bias is None, width
        own = form.batch, kind
        if own in self._compiled:
            return self._compiled[own]
        any_batch = bool(self._compiled)
        if any_batch and form.batch < BATCH.min:
            return None
        key = (None, kind) if any_batch else own
        if key not in self._compiled:
            self._compiled[key] = self._compile(linear, state, context, scale, any_batch=any_batch)
        return self._compiled[key]

    def _compile(
        self,
        linear: LinearMap,
        state: list[Tensor],
        context: Tensor | None,
        scale: Tensor,
        *,
        any_batch: bool,
    ) -> Compiled:
        weight, bias = linear.weight.detach(), None
        if linear.bias is not None:
            bias = linear.bias.detach()
        question = (state, context, weight, bias, scale, self._share[1])
        with torch.no_grad():
            _, seen, prediction, gradients = self._question(*question)
        in_state, in_rows = [{self._batch_dim: BATCH}] * len(state), {0: BATCH}
        in_context = None if context is None else in_rows
        ask = built(
            self._question,
            question,
            (in_state, in_context, None, None, None, None) if any_batch else None,
            self._options,
        )
        learn = built(
            Lesson(self._batch_dim, has_bias=bias is not None),
            (gradients, seen, prediction, scale),
            (in_state, in_rows, in_rows, None) if any_batch else None,
            self._options,
        )
        return Compiled(ask, learn)


def built(
    module: nn.Module, args: tuple[Any, ...], dynamic_shapes: Any, options: Mapping[str, Any]
) -> Call:
    """What a module computes of arguments like these, as code of this machine's.

    Args:
        module: The module.
        args: Arguments of these types and shapes.
        dynamic_shapes: Which axes may have other sizes, see ``torch.export.export``.
        options: Options of the compiler.

    Raises:
        ConfigError: The compiler failed.
    """
    with (
        torch.no_grad(),
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of torch's own parts about one another
        try:
            path = torch._inductor.aoti_compile_and_package(
                torch.export.export(module, args, dynamic_shapes=dynamic_shapes),
                package_path=str(Path(folder) / "seam.pt2"),
                inductor_configs=dict(options),
            )
            # The loader itself: what is around it takes as long as the code.
            call: Call = torch._inductor.aoti_load_package(path).loader.boxed_run
        except Exception as error:  # whatever compilers, linkers and loaders raise
            first = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise ConfigError(
                f"`compile()` could not compile a window's end: {first} Leave `compile()` out, "
                "and windows run as they are."
            ) from error
    return call


def check_compiler(options: Mapping[str, Any]) -> None:
    """Check that there is a C++ compiler, and that it has these options.

    Args:
        options: See `CompiledSeam`.

    Raises:
        ConfigError: There is none, or it has not; or torch cannot compile ahead of time.
    """
    from torch._inductor import cpp_builder  # here: a second that others need not wait for
    from torch._inductor.exc import InvalidCxxCompiler

    loader = getattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader", None)
    if not hasattr(loader, "boxed_run"):
        raise ConfigError(f"`compile()` needs a newer torch than {torch.__version__}.")
    if not isinstance(options, Mapping):
        raise ConfigError(
            f"`options` is {options!r}; names of options of the compiler with their values are "
            "needed, {'max_autotune': True} say."
        )
    known = torch._inductor.list_options()
    for name in options:
        if name not in known:
            raise ConfigError(f"The compiler has no option {name!r}.{did_you_mean(name, known)}")
    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "`compile()` found no C++ compiler. Install g++ or clang++, or name one by the "
            "environment variable CXX; without `compile()` windows run as they are."
        ) from error
