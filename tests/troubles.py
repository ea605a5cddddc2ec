# SPDX-License-Identifier: Apache-2.0
"""The table of docs/troubles.md: what users of torch report, what torch does today, what happens here, which test shows
it. `python tests/troubles.py` writes it into the document; test_troubles_table.py says if that was forgotten."""

from pathlib import Path
from typing import NamedTuple

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "troubles.md"
BEGIN, END = "<!-- table: python tests/troubles.py -->\n", "<!-- end -->\n"


class Trouble(NamedTuple):
    """`threads`: where users report it. `tests`: "file::test", without `test_`."""

    what: str
    threads: str
    torch: str
    ours: str
    tests: tuple[str, ...]


GRAPHS = [
    Trouble(
        "a learning rate is frozen in a captured graph",
        "pytorch#106802, burn#5779, dion#104",
        "a float is baked into the graph; a tensor is read anew",
        "floats and tensors reach the graph, an edit with `sync_hparams()`",
        ("troubles_graphs::numbers_are_frozen_in_a_graph", "capture::an_edit_between_replays_has_torchs_effect"),
    ),
    Trouble(
        "weight decay, betas, momentum and eps are frozen, a tensor lr or not",
        "Megatron-LM",
        "frozen, without a word",
        "as the learning rate",
        (
            "troubles_graphs::numbers_are_frozen_in_a_graph",
            "troubles_graphs::a_ramp_of_weight_decay_is_frozen_in_a_graph",
        ),
    ),
    Trouble(
        "schedulers stand outside of the graph",
        "NeMo, apex#1522",
        "a step decides on the host, and the graph repeats that decision",
        "`sched.step()` moves on with each replay",
        ("troubles_graphs::a_scheduler_is_frozen_in_a_graph", "capture::replays_equal_eager_steps"),
    ),
    Trouble(
        "OneCycleLR's momentum is frozen",
        "pytorch#133898",
        "betas are floats, even where lr is a tensor",
        "cycles in the graph",
        ("troubles_graphs::cycled_momentum_is_frozen_in_a_graph",),
    ),
    Trouble(
        "a flag has to be set before a capture",
        "pytorch#118018, Lightning#18501",
        "`capturable=True` or an error; SGD has no such flag and freezes its numbers",
        "no flag; what would freeze is refused by name",
        ("troubles_graphs::a_flag_is_needed_for_a_capture", "capture::what_would_freeze_is_refused_by_name"),
    ),
    Trouble(
        "each parameter group is launches of its own",
        "pytorch#89987, rf-detr#1409",
        "two fused operations for each group",
        "one launch for all groups",
        (
            "troubles_graphs::launches_grow_with_the_groups",
            "capture::one_launch_for_all_groups_and_two_with_a_scheduler",
        ),
    ),
]

COMPILE = [
    Trouble(
        "the step is compiled again when the rate moves",
        "pytorch#107076, #120934",
        "2 graphs with a float lr (once: one for each value)",
        "1 graph",
        ("troubles_compile::a_rate_that_moves_is_compiled_again", "compile::any_scheduler_is_one_graph"),
    ),
    Trouble(
        "and when momentum is cycled, even with a tensor lr",
        "pytorch#133898",
        "2 graphs",
        "1 graph",
        ("troubles_compile::cycled_momentum_is_compiled_again_even_with_a_tensor_rate",),
    ),
    Trouble(
        "with a tensor lr at the second step",
        "pytorch#130467",
        "no longer",
        "1 graph",
        ("troubles_compile::a_tensor_rate_is_not_compiled_again", "compile::tensor_rates_stay_tensors"),
    ),
    Trouble(
        "ReduceLROnPlateau puts a float where lr was a tensor",
        "pytorch#163093",
        "no longer",
        "the tensor stays",
        ("troubles_compile::plateau_leaves_a_tensor_rate_a_tensor",),
    ),
    Trouble(
        "a fused step cannot be compiled",
        "tt-mlir#9327",
        "0 graphs: the compiler is turned off around it",
        "1 graph",
        ("troubles_compile::a_fused_step_gives_no_graph_at_all",),
    ),
    Trouble(
        "`fullgraph=True`",
        "",
        "raises, for every implementation",
        "1 graph, `sched.step()` in it",
        (
            "troubles_compile::fullgraph_raises",
            "troubles_compile::step_and_scheduler_in_one_graph",
            "compile::any_optimizer_is_one_graph",
        ),
    ),
    Trouble(
        "a step that was compiled before the scheduler is built",
        "torchtune#2263, #2931",
        "`AttributeError: __func__`; so do our schedulers on an optimizer of torch's",
        "our optimizers take schedulers of both",
        (
            "troubles_compile::a_step_compiled_before_the_scheduler_is_built",
            "compile_edits::step_can_be_compiled_before_a_scheduler_is_built",
        ),
    ),
]

RATES = [
    Trouble(
        "LambdaLR compounds where lr is a tensor",
        "pytorch#126854",
        "no longer",
        "as with a float, whether the tensor is one group's own, shared or a view",
        ("troubles_rates::a_tensor_rate_moves_as_a_float_does",),
    ),
    Trouble(
        "`get_last_lr()` and `initial_lr` are the tensor itself",
        "pytorch#162359, #163103, #195984",
        "no longer",
        "copies",
        ("troubles_rates::a_tensor_rate_stays_the_same_tensor_and_lends_itself_to_nobody",),
    ),
    Trouble(
        "a tensor rate of float32 drifts",
        "",
        "by 1e-6 and more in 10,000 steps",
        "one rounding",
        ("scheduler_traps::a_float32_rate_does_not_drift",),
    ),
    Trouble(
        '"is not an Optimizer", "lr was changed to a non-Tensor object"',
        "ao#959, ao#2574, apex#978",
        "raised by wrappers that are no subclass",
        "subclasses of torch's classes, a tensor stays that tensor",
        (
            "torch_optim::is_torchs_class_with_torchs_signature",
            "troubles_rates::a_tensor_rate_stays_the_same_tensor_and_lends_itself_to_nobody",
        ),
    ),
]

WAITS = [
    Trouble(
        "a step asks tensors for their numbers, and waits",
        "pytorch#133662, scvi-tools#3998",
        "at least once for each parameter (Adam, not fused)",
        "never, and no operation of PyTorch's either",
        ("troubles_rates::a_step_reads_no_number_from_a_tensor",),
    ),
    Trouble(
        "`sched.step()` with a tensor lr is many small operations",
        "pytorch#133662",
        "two to six for each group",
        "no arithmetic on tensors; `ChainedScheduler` excepted",
        ("troubles_rates::a_schedulers_step_does_no_arithmetic_on_the_device",),
    ),
    Trouble(
        "Adam's `step` lies on the CPU, or on the GPU, or is a number",
        "pytorch#128208, #80809",
        "every kind can be loaded; where it lies decides whether a step waits",
        "every kind can be loaded and is put beside its parameter",
        ("troubles_rates::a_step_of_whatever_kind_can_be_loaded",),
    ),
    Trouble(
        "`step` is a float32 and stops at 2**24",
        "ao#4915",
        "16,777,216 for ever",
        "an exact integer, shown as a float32",
        ("troubles_rates::the_count_of_updates_stops_at_two_to_the_24", "triton_step::counts_are_exact_past_float32"),
    ),
]

SCALER = [
    Trouble(
        "a warning about the order of calls when the first steps are skipped",
        "pytorch#44511, #55585",
        "with optimizers that are not fused",
        "none where the order is right, unless `fused=False` and `zero_grad()` before `sched.step()`",
        ("amp::no_warning_where_the_order_is_right", "amp::a_warning_where_the_order_is_wrong"),
    ),
    Trouble(
        "and the first values of the schedule are lost",
        "pytorch#44511, Lightning#21339, transformers#11144",
        "lost",
        "native schedules count applied updates; drop-in ones do with `advance_on_skip=False`",
        (
            "troubles_scaler::the_first_rates_are_lost_when_the_first_steps_are_skipped",
            "amp::native_schedules_wait_for_applied_updates",
            "advance_on_skip::it_holds_where_no_update_was_applied",
        ),
    ),
    Trouble(
        "momentum is garbage after a skipped first step",
        "LibreYOLO#771",
        "`SGD(fused=True)`: memory that nobody wrote",
        "a skipped step makes no state",
        (
            "troubles_scaler::momentum_is_garbage_after_a_skipped_first_step",
            "amp::a_skipped_update_changes_nothing_at_all",
            "amp::going_on_from_a_checkpoint_is_never_having_stopped",
        ),
    ),
    Trouble(
        "a parameter whose first gradient comes late",
        "",
        "`SGD(fused=True)` with momentum: TypeError",
        "joins",
        ("troubles_scaler::a_gradient_that_comes_late_breaks_momentum",),
    ),
    Trouble(
        "wrong results of fused optimizers behind a scaler",
        "pytorch#95847, #96755, #90752",
        "not looked into",
        "the bounds of `fusedsched verify` hold behind a scaler too",
        (
            "amp::a_scaled_run_is_as_near_to_float64_as_torchs_plain_one",
            "amp::scale_and_results_are_those_of_torchs_run",
        ),
    ),
    Trouble(
        "nothing says that a step was skipped",
        "pytorch#67590, #152279",
        "compare the scale before and after",
        "`opt.skipped_steps`",
        ("troubles_scaler::nobody_says_that_a_step_was_skipped",),
    ),
    Trouble(
        "Lightning refuses its clipping for fused optimizers",
        "Lightning#15501, #21435",
        "`fused=True` has to go, and the kernels with it",
        "`fused=False` leaves unscaling to the scaler; the kernels stay",
        ("troubles_scaler::fused_optimizers_are_refused_for_clipping", "amp::where_the_scaler_does_the_skipping"),
    ),
    Trouble(
        "`optimizer.step` is replaced by a wrapper",
        "Lightning#21339",
        "by every scheduler, in the instance",
        "our method says that it needs none",
        ("troubles_scaler::step_is_no_patched_method", "torch_optim::a_scheduler_of_torch_leaves_our_step_alone"),
    ),
]

SECTIONS = {
    "CUDA graphs": GRAPHS,
    "torch.compile": COMPILE,
    "Tensor learning rates": RATES,
    "Waiting, and counting": WAITS,
    "GradScaler": SCALER,
}


def rendered() -> str:
    lines = []
    for title, troubles in SECTIONS.items():
        lines += [f"\n## {title}\n", "| trouble | reported | torch | fusedsched | shown by |", "|---|---|---|---|---|"]
        for row in troubles:
            tests = "<br>".join(f"`{test.replace('::', '::test_')}`" for test in row.tests)
            lines.append(f"| {row.what} | {row.threads} | {row.torch} | {row.ours} | {tests} |")
    return "\n".join(lines) + "\n\n"


def parts() -> tuple[str, str, str]:
    """The document before, in and after the table."""
    before, rest = DOCUMENT.read_text().split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


if __name__ == "__main__":
    before, _, after = parts()
    DOCUMENT.write_text(before + BEGIN + rendered() + END + after)
