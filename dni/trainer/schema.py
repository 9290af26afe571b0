"""What a config may say: one pydantic model for each block that the trainer owns."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from .values import (
    BARE_NAME,
    NO_NULLS,
    Count,
    Device,
    FolderName,
    Keys,
    LastIndex,
    Names,
    Number,
    Real,
    StepIndex,
    Whole,
)


class Block(BaseModel):
    """A block that the trainer owns: an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Typed(BaseModel):
    """An object by name: ``type``, and the arguments of its constructor as the other keys."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    type: str = Field(min_length=1, description="a registered name or an import path")

    @property
    def arguments(self) -> dict[str, Any]:
        """The keys that the constructor gets."""
        return dict(self.model_extra or {})


class RunConfig(Block):
    """Where a run is written: ``<root>/<time>_<name>/``."""

    name: FolderName = Field("run", description="end of the folder's name")
    root: str = Field("runs", description="folder that holds the runs")


class DataConfig(Typed):
    """A split: a data set by name, or a class or function by import path with its arguments."""

    batch_size: Count = Field(64, description="samples in a batch")
    shuffle: bool | None = Field(
        None, description="order by seed and epoch; null: yes for `train`, no for the others"
    )
    drop_last: bool | None = Field(
        None, description="leave out a last batch that is not full; null: as `shuffle`"
    )
    keys: Names | None = Field(
        None, description="names for the parts of a sample that is a tuple, e.g. [image, label]"
    )
    workers: StepIndex = Field(0, description="processes that prepare samples; 0: none")
    num_classes: Count | None = Field(
        None, description="classes of the labels, where the data set does not tell"
    )


class NetworkConfig(Typed):
    """A network; the other keys are its constructor's."""


class StrategyConfig(Typed):
    """Who updates the networks of a step: a torch optimizer by name, ``dni``, or your own."""


class Windowed(Typed):
    """Something that takes part in some steps only, counted from 0, both ends included."""

    after: StepIndex = Field(0, description="first step")
    before: LastIndex = Field(None, description="last step; null for no end")
    every: Count = Field(1, description="each n-th step, counted from `after`")


class InjectorConfig(Windowed):
    """An injector: reads keys of the batch's state, writes others."""

    inputs: Keys = Field(None, alias="in", description="key or keys it reads")
    outputs: Keys = Field(
        None,
        alias="out",
        description="key it writes; a list takes a sequence apart; null: its name",
    )
    in_training: bool = Field(True, alias="train", description="takes part in training")
    in_evaluation: bool = Field(True, alias="eval", description="takes part in evaluation")
    overwrite: bool = Field(False, description="may write a key that is there already")


class LossConfig(Windowed):
    """A loss; the step's total is the sum of its losses, each times its weight."""

    weight: Number = Field(1.0, description="a number or a schedule")
    closed: Literal["skip", "zero"] = Field(
        "skip", description="outside its window: not computed, or computed and multiplied by 0"
    )


class LogOpConfig(Block):
    """When `log_op` is called, and what becomes of its images."""

    every: Count | None = Field(None, description="steps; null: whenever the trainer logs")
    layout: Literal["CHW", "HWC", "HW"] = Field("HWC", description="axes of one image")
    range: tuple[Real, Real] = Field(
        (-1.0, 1.0), description="values of black and of white; of bytes 0 and 255"
    )
    count: Count = Field(64, description="images of a batch, at most")
    validation_batch: bool = Field(
        False, description="also log one batch of the split `validation` each time"
    )


class PhaseConfig(Typed):
    """A phase of an epoch, of your own or the trainer's `training` and `validation`."""

    split: str | None = Field(None, description="data it is for; null: what its class says")
    after: StepIndex = Field(0, description="first epoch, from 0")
    before: LastIndex = Field(None, description="last epoch; null for no end")
    every: Count = Field(1, description="each n-th epoch, counted from `after`")


class StepConfig(Block):
    """What happens with a batch: injectors, losses, backward, strategy. Steps run in order."""

    type: str | None = Field(
        None, description="import path of a Python function or a `step_op` class instead of a step"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="arguments of that class; only with `type`"
    )
    log_op: LogOpConfig | None = Field(None, description="logs of a `step_op` class")
    training: Names = Field(default_factory=list, description="networks it trains")
    injectors: Annotated[dict[str, InjectorConfig], NO_NULLS] = Field(
        default_factory=dict, description="by name, in order"
    )
    losses: Annotated[dict[str, LossConfig], NO_NULLS] = Field(
        default_factory=dict, description="by name"
    )
    optimizer: Annotated[StrategyConfig | None, BARE_NAME] = Field(
        None, description="in the place of the default one"
    )
    after: StepIndex = Field(0, description="first step at which it runs")
    before: LastIndex = Field(None, description="last step at which it runs")
    every: Count = Field(1, description="each n-th step")
    requires: Names = Field(default_factory=list, description="skip it where a key is not there")
    accumulate: Count = Field(1, description="pieces a batch is cut into, one backward each")
    clip: Real | None = Field(
        None, gt=0, description="largest norm of the gradients of each network"
    )
    keep: Names = Field(default_factory=list, description="keys whose graph later steps may use")
    step_outputs: Names | None = Field(
        None, description="the only keys that outlive the step; null: all it writes"
    )


class ImagesConfig(Block):
    """Pictures of keys of the state, as PNG and in TensorBoard."""

    every: Count = Field(500, description="steps between them")
    keys: Names = Field(description="keys of the state")
    layout: Literal["CHW", "HWC", "HW"] = Field("CHW", description="axes of one image")
    range: tuple[Real, Real] = Field((0.0, 1.0), description="values of black and of white")
    count: Count = Field(64, description="images of a batch, at most")


class LogConfig(Block):
    """What is written, and when: at steps 0, 1, 2, 4, 8, … up to `every`, then each `every`."""

    every: Count = Field(50, description="steps")
    growth: Real | None = Field(
        2, gt=1, description="factor between the first steps; null: only each `every`"
    )
    start: Count = Field(1, description="first of those steps after 0; 2 for 0, 2, 4, 8, …")
    progress: bool = Field(True, description="a progress bar on a terminal")
    tensorboard: bool = Field(True, description="TensorBoard events")
    csv: bool = Field(True, description="log.csv and log.jsonl")
    images: ImagesConfig | None = Field(None, description="pictures")


class ValidateConfig(Block):
    """When the split `validation` is evaluated."""

    every_epochs: Count | None = Field(1, description="epochs; null for never")
    every_steps: Count | None = Field(None, description="steps; null for never")


class EvaluatorConfig(Typed):
    """An evaluator; the other keys are its constructor's. Reported: `<split>/<name>/<key>`."""

    split: str = Field("validation", description="data it is for")
    every_epochs: Count | None = Field(
        None,
        description="at the validations that end every so many epochs, and the run; null: at all",
    )
    alone: bool = Field(
        False, description="in the place of the steps, which are not run on the split"
    )


class EvaluationConfig(Block):
    """What is stored of an evaluation for each example: `dni run --resume RUN`, `dni eval RUN`."""

    split: str = Field("validation", description="data")
    keys: Names | None = Field(
        None, description="keys of the state; null: what `eval_op` of a `step_op` class gives"
    )
    batch_size: Count | None = Field(
        None, description="samples in a batch when a run is evaluated; null: that of the data"
    )
    every_epochs: Count | None = Field(
        None, description="also while training, at the end of every so many epochs; null: not"
    )
    functions: Annotated[dict[str, str], NO_NULLS] = Field(
        default_factory=dict,
        description="import paths by name, called on what was stored: "
        "`function(folder, outputs, data, config)`",
    )


class CheckpointConfig(Block):
    """When checkpoints are written, and which are kept."""

    every_epochs: Count | None = Field(1, description="epochs; null for never")
    every_steps: Count | None = Field(None, description="steps; null for never")
    keep_best: StepIndex = Field(1, description="how many of the best")
    keep_last: Count = Field(1, description="how many of the last")
    monitor: str | None = Field(
        None, description="logged value that tells the best; null: the first loss of the validation"
    )
    mode: Literal["min", "max"] = Field("min", description="which end of it is best")
    on_exception: bool = Field(True, description="also when a run fails")


class EmaConfig(Block):
    """A moving average of the networks, updated after each step, used for evaluation."""

    rate: Real = Field(0.999, gt=0, lt=1, description="share that stays")
    every: Count = Field(1, description="steps between two updates")
    validate_: bool = Field(
        True, alias="validate", description="evaluate the average; false: the weights themselves"
    )


class TrainConfig(Block):
    """How long to train: whichever comes first."""

    max_epochs: Count | None = Field(10, description="epochs; null for no limit")
    max_steps: Count | None = Field(None, description="steps; null for no limit")


class Config(Block):
    """A whole config."""

    run: RunConfig = Field(
        default_factory=lambda: RunConfig.model_validate({}), description="the run's folder"
    )
    seed: Whole = Field(0, ge=0, lt=2**63, description="of weights, order of the data and noise")
    device: Device = Field(
        "cpu", description="auto, cpu, cuda or cuda:0; auto takes a GPU if there is one"
    )
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of autocast; float16 with a gradient scaler"
    )
    batches_per_step: Count = Field(
        1, description="batches of which an update takes the mean gradient"
    )
    data: Annotated[
        dict[str, Annotated[DataConfig, BARE_NAME]],
        NO_NULLS,
    ] = Field(min_length=1, description="splits by name: `train`, `validation`, your own")
    networks: Annotated[
        dict[str, Annotated[NetworkConfig, BARE_NAME]],
        NO_NULLS,
    ] = Field(min_length=1, description="by name")
    optimizer: Annotated[StrategyConfig | None, BARE_NAME] = Field(
        None, description="of every step that names none itself"
    )
    steps: Annotated[dict[str, StepConfig], NO_NULLS] = Field(
        min_length=1, description="by name, in order"
    )
    phases: dict[str, Annotated[PhaseConfig | None, BARE_NAME]] = Field(
        default_factory=dict,
        description="of an epoch, by name, in order; those that do not train run whenever "
        "validation does. `train` and `validation` come last unless named; null: none",
    )
    schedules: Annotated[dict[str, Number], NO_NULLS] = Field(
        default_factory=dict,
        description="values that change, by path: optimizer/<step>/lr, "
        "losses/<step>/<loss>/weight, dni/<step>/lambda",
    )
    metrics: Annotated[dict[str, Annotated[Typed, BARE_NAME]], NO_NULLS] = Field(
        default_factory=dict, description="torchmetrics by name"
    )
    callbacks: list[Annotated[Typed, BARE_NAME]] = Field(
        default_factory=list, description="besides those of the blocks below"
    )
    strict_callbacks: bool = Field(
        False, description="a callback that reads or writes what it does not declare is an error"
    )
    log: LogConfig = Field(default_factory=lambda: LogConfig.model_validate({}), description="logs")
    validation: ValidateConfig = Field(
        default_factory=lambda: ValidateConfig.model_validate({}),
        alias="validate",
        description="validation",
    )
    evaluators: Annotated[
        dict[str, Annotated[EvaluatorConfig, BARE_NAME]],
        NO_NULLS,
    ] = Field(default_factory=dict, description="by name, beside or instead of validation")
    evaluation: EvaluationConfig = Field(
        default_factory=lambda: EvaluationConfig.model_validate({}),
        description="stored evaluations",
    )
    checkpoint: CheckpointConfig = Field(
        default_factory=lambda: CheckpointConfig.model_validate({}), description="checkpoints"
    )
    ema: EmaConfig | None = Field(None, description="moving average of the weights")
    train: TrainConfig = Field(
        default_factory=lambda: TrainConfig.model_validate({}), description="length of the training"
    )
