"""The 28 points that users of three other trainers expect, each with the tests that show it.

DLAS's ExtensibleTrainer:

 1. Two networks in two steps, the discriminator every second step from a first one on.
 2. A chain of injectors by name, in chunks, its outputs detached, ``step_outputs``.
 3. A new optimizer by name, without editing the trainer.
 4. Windows of losses.
 5. Accumulated chunks equal the whole batch within 1e-6, 7 samples in 4 chunks too.
 6. With a moving average a resumed run is the uninterrupted one, bit for bit.
 7. A PNG of a key of the state every n steps.
 8. An evaluator class from the config.
 9. A run of the same name does not write over the one before.
10. Parameter groups and clipping are honoured by every optimizer.

edflow:

11. ``-n -b -b -t --a/b/c v``: the resolved config is shown and saved.
12. A ``step_op`` class runs, and logs at 0, 2, 4, ….
13. A ramped weight of the KL divergence.
14. Losses of instances and of the batch.
15. Stored outputs are reloaded by index, aligned with the data.
16. Functions are run again on stored outputs.
17. ``-p`` goes on, ``-c`` fine-tunes, ``-r`` begins at step 0.
18. Ctrl-C leaves a checkpoint that loads.
19. A short run to see whether it works.

FluxTraining.jl:

20. A phase of one's own in ten lines, with all callbacks working.
21. Events in their documented order.
22. ``CancelStep``, ``CancelEpoch``, ``CancelFit``.
23. Callbacks in any order do the same; clashes and missing writers are errors.
24. Throttling by count and by seconds.
25. One-cycle follows its formula.
26. The best k and the newest checkpoints are kept.
27. The messages of the sanity check.
28. Traces of any function.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from dni.trainer.cli import main

FOLDER = Path(__file__).parent
POINTS = {
    1: ["test_gan.py::test_point_01_the_discriminator_every_second_step_from_a_first_one"],
    2: ["test_acceptance_steps.py::test_point_02_a_chain_of_injectors_in_chunks_with_step_outputs"],
    3: ["test_acceptance_steps.py::test_point_03_a_new_optimizer_by_its_name"],
    4: ["test_acceptance_steps.py::test_point_04_windows_of_losses"],
    5: ["test_acceptance_steps.py::test_point_05_chunks_equal_the_batch"],
    6: [
        "test_acceptance_steps.py::"
        "test_point_06_a_resumed_run_with_an_average_is_the_uninterrupted_one"
    ],
    7: [
        "test_acceptance.py::test_point_07_pictures_every_n_steps_as_the_config_says",
        "test_acceptance_callbacks.py::test_point_07_a_png_of_a_state_key_every_n_steps",
    ],
    8: ["test_evaluators.py::test_point_08_an_evaluator_class_from_a_config"],
    9: ["test_acceptance.py::test_point_09_a_run_of_the_same_name_leaves_the_first_alone"],
    10: [
        "test_acceptance_steps.py::test_point_10_groups_are_honoured_by_every_optimizer",
        "test_acceptance_steps.py::test_point_10_clipping_is_honoured_by_every_optimizer",
    ],
    11: ["test_acceptance.py::test_point_11_the_resolved_config_is_shown_and_saved"],
    12: [
        "test_step_op.py::test_point_12_it_logs_at_0_2_4_and_then_every_so_often",
        "test_edflow_example.py::test_point_12_a_step_op_class_logs_at_0_2_4_and_learns",
    ],
    13: [
        "test_acceptance_steps.py::test_point_13_a_ramped_weight_of_kl",
        "test_acceptance_loop.py::test_point_13_a_ramped_weight_of_a_loss",
        "test_edflow_example.py::test_point_13_the_weight_of_kl_is_ramped_up",
    ],
    14: [
        "test_acceptance_steps.py::test_point_14_losses_of_samples_and_of_the_batch",
        "test_edflow_example.py::test_point_14_losses_of_instances_and_of_the_batch",
    ],
    15: [
        "test_evaluation.py::test_point_15_row_i_is_example_i",
        "test_edflow_example.py::test_point_15_outputs_are_reloaded_by_index",
    ],
    16: ["test_edflow_example.py::test_point_16_callbacks_are_run_again_on_stored_outputs"],
    17: ["test_edflow_example.py::test_point_17_p_goes_on_c_fine_tunes_and_r_begins_at_step_0"],
    18: [
        "test_acceptance_callbacks.py::test_point_18_ctrl_c_leaves_a_checkpoint_that_loads",
        "test_acceptance_loop.py::test_point_18_an_interrupt_leaves_a_checkpoint_that_goes_on",
        "test_acceptance_loop.py::test_point_18_an_interrupt_while_validating",
    ],
    19: ["test_acceptance.py::test_point_19_a_debug_run_is_short_and_elsewhere"],
    20: ["test_acceptance_loop.py::test_point_20_a_phase_of_ones_own_in_ten_lines"],
    21: [
        "test_acceptance_loop.py::test_point_21_the_golden_trace_of_events",
        "test_acceptance_loop.py::test_point_21_the_golden_trace_of_a_step_from_a_config",
    ],
    22: [
        "test_acceptance_loop.py::test_point_22_cancel_step_epoch_fit",
        "test_acceptance_loop.py::test_point_22_a_cancelled_step_updates_nothing",
        "test_acceptance_loop.py::test_point_22_a_step_is_cancelled_only_within_a_step",
    ],
    23: [
        "test_acceptance_loop.py::test_point_23_callbacks_in_any_order_do_the_same",
        "test_acceptance_loop.py::test_point_23_two_that_write_the_same_clash",
        "test_acceptance_loop.py::test_point_23_what_nobody_writes_cannot_be_read",
    ],
    24: ["test_acceptance_loop.py::test_point_24_throttled_by_count_and_by_seconds"],
    25: ["test_acceptance_loop.py::test_point_25_onecycle_is_torchs"],
    26: [
        "test_acceptance_loop.py::test_point_26_the_best_and_the_newest_are_kept",
        "test_acceptance_callbacks.py::test_point_26_the_best_k_and_the_newest_are_kept",
    ],
    27: ["test_acceptance_callbacks.py::test_point_27_the_messages_of_the_sanity_check"],
    28: ["test_acceptance_callbacks.py::test_point_28_traces_of_any_function_of_the_state"],
}
BASE = """\
data:
  train: {type: digits, split: train, batch_size: 64}
  validation: {type: digits, split: test, batch_size: 360}
networks: {net: {type: fcn, image: [1, 8, 8], hidden: [8]}}
optimizer: {type: sgd, lr: 0.1}
steps:
  s:
    training: net
    injectors: {forward: {type: call, network: net, in: image, out: logits}}
    losses: {ce: {type: cross_entropy, input: logits, target: label}}
log: {tensorboard: false, progress: false}
checkpoint: {every_epochs: null}
train: {max_steps: 5, max_epochs: null}
"""


@pytest.mark.parametrize("point", range(1, 29))
def test_every_point_has_its_tests(point: int) -> None:
    for name in POINTS[point]:
        file, _, test = name.partition("::")
        tree = ast.parse((FOLDER / file).read_text(encoding="utf-8"))
        assert test.startswith(f"test_point_{point:02}_")
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(BASE)

    def run_(*words: str, more: str = "seed: 0") -> list[Path]:
        Path("more.yaml").write_text(more)
        assert main(["run", "-n", "demo", "-b", "base.yaml", "more.yaml", "-t", *words]) == 0
        return sorted(Path("runs").glob("*_demo*"))

    return run_


def test_point_07_pictures_every_n_steps_as_the_config_says(run: Any) -> None:
    more = "log: {images: {keys: image, every: 2, layout: CHW, range: [0.0, 100.0], count: 4}}"
    (folder,) = run(more=more)
    files = sorted((folder / "images").rglob("*.png"))
    assert [file.name for file in files] == ["0000000.png", "0000002.png", "0000004.png"]
    picture = Image.open(files[0])
    assert picture.size == (2 * 8 + 1, 2 * 8 + 1)
    assert 0 < max(picture.crop((0, 0, 8, 8)).tobytes()) < 10  # of a range up to 100


def test_point_09_a_run_of_the_same_name_leaves_the_first_alone(run: Any) -> None:
    (first,) = run()
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert before
    assert len(run("--seed", "1")) == 2
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_point_11_the_resolved_config_is_shown_and_saved(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "steps: {s: {losses: {ce: {weight: 3}}}}\nrun: {root: '{run/name}s'}"
    run("--steps/s/losses/ce/weight", "2", "--run/root", "runs", more=more)
    (folder,) = Path("runs").iterdir()
    saved = (folder / "config.yaml").read_text()
    assert saved in capsys.readouterr().out
    config = yaml.safe_load(saved)
    assert config["steps"]["s"]["losses"]["ce"] == {
        **{"type": "cross_entropy", "input": "logits", "target": "label", "weight": 2},
        **{"after": 0, "before": None, "every": 1, "closed": "skip"},
    }
    assert config["run"] == {"name": "demo", "root": "runs"}


def test_point_19_a_debug_run_is_short_and_elsewhere(run: Any) -> None:
    assert run("--debug", "--train/max_steps", "2") == []
    (folder,) = Path("runs/debug").iterdir()
    assert len((folder / "log.csv").read_text().splitlines()) >= 3
