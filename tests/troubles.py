# SPDX-License-Identifier: Apache-2.0
"""The sections of docs/known-issues.md: what users of torch report, what torch does today, what happens here, tests.

`python tests/troubles.py` writes them into the page; test_troubles_table.py fails if that was forgotten."""

from pathlib import Path
from typing import NamedTuple

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "known-issues.md"
BEGIN, END = "<!-- known issues: python tests/troubles.py -->\n", "<!-- end -->\n"


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
        "a float is a constant of the graph; a tensor is read by each replay",
        "floats and tensors reach the graph; an edited float after `sync_hparams()`",
        ("troubles_graphs::numbers_are_frozen_in_a_graph", "capture::an_edit_between_replays_has_torchs_effect"),
    ),
    Trouble(
        "weight decay, betas, momentum and eps are frozen, a tensor lr or not",
        "Megatron-LM",
        "frozen, without a warning",
        "they reach the graph as the learning rate does",
        (
            "troubles_graphs::numbers_are_frozen_in_a_graph",
            "troubles_graphs::a_ramp_of_weight_decay_is_frozen_in_a_graph",
        ),
    ),
    Trouble(
        "a scheduler does not advance with the replays",
        "NeMo, apex#1522",
        "`sched.step()` computes on the host, and the graph repeats that value",
        "a captured `sched.step()` advances with each replay",
        ("troubles_graphs::a_scheduler_is_frozen_in_a_graph", "capture::replays_equal_eager_steps"),
    ),
    Trouble(
        "OneCycleLR's momentum is frozen",
        "pytorch#133898",
        "betas are floats, even where lr is a tensor",
        "the momentum cycles in the graph",
        ("troubles_graphs::cycled_momentum_is_frozen_in_a_graph",),
    ),
    Trouble(
        "a flag must be set before a capture",
        "pytorch#118018, Lightning#18501",
        "`capturable=True` or an error; SGD has no such flag and freezes its numbers",
        "no flag; what would freeze is refused by name",
        ("troubles_graphs::a_flag_is_needed_for_a_capture", "capture::what_would_freeze_is_refused_by_name"),
    ),
    Trouble(
        "each parameter group needs launches of its own",
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
        "the step is compiled again when the learning rate changes",
        "pytorch#107076, #120934",
        "2 graphs with a float lr (once: one for each value)",
        "1 graph",
        ("troubles_compile::a_rate_that_moves_is_compiled_again", "compile::any_scheduler_is_one_graph"),
    ),
    Trouble(
        "the step is compiled again when momentum is cycled, even with a tensor lr",
        "pytorch#133898",
        "2 graphs",
        "1 graph",
        ("troubles_compile::cycled_momentum_is_compiled_again_even_with_a_tensor_rate",),
    ),
    Trouble(
        "the step is compiled again at the second step, with a tensor lr",
        "pytorch#130467",
        "fixed",
        "1 graph",
        ("troubles_compile::a_tensor_rate_is_not_compiled_again", "compile::tensor_rates_stay_tensors"),
    ),
    Trouble(
        "ReduceLROnPlateau replaces a tensor lr by a float",
        "pytorch#163093",
        "fixed",
        "the tensor stays in the group",
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
        "`fullgraph=True` raises",
        "",
        "it raises, for every implementation",
        "1 graph that includes `sched.step()`",
        (
            "troubles_compile::fullgraph_raises",
            "troubles_compile::step_and_scheduler_in_one_graph",
            "compile::any_optimizer_is_one_graph",
        ),
    ),
    Trouble(
        "a step is compiled before the scheduler is built",
        "torchtune#2263, #2931",
        "`AttributeError: __func__`; also with our schedulers on an optimizer of torch",
        "our optimizers work with schedulers of both",
        (
            "troubles_compile::a_step_compiled_before_the_scheduler_is_built",
            "compile_edits::step_can_be_compiled_before_a_scheduler_is_built",
        ),
    ),
]

RATES = [
    Trouble(
        "LambdaLR compounds if lr is a tensor",
        "pytorch#126854",
        "fixed",
        "as with a float, whether the tensor belongs to one group, is shared, or is a view",
        ("troubles_rates::a_tensor_rate_moves_as_a_float_does",),
    ),
    Trouble(
        "`get_last_lr()` and `initial_lr` are the tensor itself",
        "pytorch#162359, #163103, #195984",
        "fixed",
        "they are copies",
        ("troubles_rates::a_tensor_rate_stays_the_same_tensor_and_lends_itself_to_nobody",),
    ),
    Trouble(
        "a float32 tensor lr drifts",
        "",
        "it drifts by 1e-6 and more in 10,000 steps",
        "a closed form, rounded once",
        ("scheduler_traps::a_float32_rate_does_not_drift",),
    ),
    Trouble(
        '"is not an Optimizer", "lr was changed to a non-Tensor object"',
        "ao#959, ao#2574, apex#978",
        "raised for wrappers that are not a subclass of `Optimizer`",
        "our classes are subclasses of torch's, and a tensor stays that tensor",
        (
            "torch_optim::is_torchs_class_with_torchs_signature",
            "troubles_rates::a_tensor_rate_stays_the_same_tensor_and_lends_itself_to_nobody",
        ),
    ),
]

WAITS = [
    Trouble(
        "a step reads numbers from tensors, and waits",
        "pytorch#133662, scvi-tools#3998",
        "at least once for each parameter (Adam, not fused)",
        "never; a step runs no PyTorch operation",
        ("troubles_rates::a_step_reads_no_number_from_a_tensor",),
    ),
    Trouble(
        "`sched.step()` with a tensor lr runs many small operations",
        "pytorch#133662",
        "two to six for each group",
        "no arithmetic on tensors, except in `ChainedScheduler`",
        ("troubles_rates::a_schedulers_step_does_no_arithmetic_on_the_device",),
    ),
    Trouble(
        "Adam's `step` is on the CPU, on the GPU, or a number",
        "pytorch#128208, #80809",
        "every kind can be loaded; its device decides whether a step waits",
        "every kind can be loaded, and is moved to the device of its parameter",
        ("troubles_rates::a_step_of_whatever_kind_can_be_loaded",),
    ),
    Trouble(
        "`step` is a float32 and stops at 2**24",
        "ao#4915",
        "the count stays at 16,777,216",
        "the count is an exact integer, shown as a float32",
        ("troubles_rates::the_count_of_updates_stops_at_two_to_the_24", "triton_step::counts_are_exact_past_float32"),
    ),
]

SCALER = [
    Trouble(
        "a warning about the order of calls when the first steps are skipped",
        "pytorch#44511, #55585",
        "it warns with optimizers that are not fused",
        "no warning if the order is right, except with `fused=False` and `zero_grad()` before `sched.step()`",
        ("amp::no_warning_where_the_order_is_right", "amp::a_warning_where_the_order_is_wrong"),
    ),
    Trouble(
        "the first values of a schedule are lost when the first steps are skipped",
        "pytorch#44511, Lightning#21339, transformers#11144",
        "they are lost",
        "native schedules count applied updates; drop-in ones do with `advance_on_skip=False`",
        (
            "troubles_scaler::the_first_rates_are_lost_when_the_first_steps_are_skipped",
            "amp::native_schedules_wait_for_applied_updates",
            "advance_on_skip::it_holds_where_no_update_was_applied",
        ),
    ),
    Trouble(
        "momentum is uninitialised after a skipped first step",
        "LibreYOLO#771",
        "`SGD(fused=True)` uses memory that was never written",
        "a skipped step creates no state",
        (
            "troubles_scaler::momentum_is_garbage_after_a_skipped_first_step",
            "amp::a_skipped_update_changes_nothing_at_all",
            "amp::going_on_from_a_checkpoint_is_never_having_stopped",
        ),
    ),
    Trouble(
        "a parameter gets its first gradient late",
        "",
        "`SGD(fused=True)` with momentum raises TypeError",
        "its state is created then",
        ("troubles_scaler::a_gradient_that_comes_late_breaks_momentum",),
    ),
    Trouble(
        "fused optimizers give wrong results behind a scaler",
        "pytorch#95847, #96755, #90752",
        "not examined here",
        "the bounds of `fusedsched verify` hold behind a scaler too",
        (
            "amp::a_scaled_run_is_as_near_to_float64_as_torchs_plain_one",
            "amp::scale_and_results_are_those_of_torchs_run",
        ),
    ),
    Trouble(
        "a skipped step cannot be seen",
        "pytorch#67590, #152279",
        "compare the scale before and after",
        "`opt.skipped_steps` counts them",
        ("troubles_scaler::nobody_says_that_a_step_was_skipped",),
    ),
    Trouble(
        "Lightning refuses its clipping for fused optimizers",
        "Lightning#15501, #21435",
        "`fused=True` must be dropped, and with it the fused kernels",
        "`fused=False` leaves unscaling to the scaler; the kernels stay",
        ("troubles_scaler::fused_optimizers_are_refused_for_clipping", "amp::where_the_scaler_does_the_skipping"),
    ),
    Trouble(
        "`optimizer.step` is replaced by a wrapper",
        "Lightning#21339",
        "every scheduler replaces it in the instance",
        "our `step` is marked as not needing the wrapper",
        ("troubles_scaler::step_is_no_patched_method", "torch_optim::a_scheduler_of_torch_leaves_our_step_alone"),
    ),
]

SECTIONS = {
    "CUDA graphs": GRAPHS,
    "torch.compile": COMPILE,
    "Tensor learning rates": RATES,
    "Waits and counts": WAITS,
    "GradScaler": SCALER,
}


def _section(row: Trouble) -> list[str]:
    tests = ", ".join(f"`{test.replace('::', '::test_')}`" for test in row.tests)
    title = row.what if row.what[0] == "`" else row.what[0].upper() + row.what[1:]
    reported = [f"- Reported: {row.threads}"] if row.threads else []
    return [f"\n### {title}\n", f"- torch: {row.torch}", f"- fusedsched: {row.ours}", *reported, f"- Tests: {tests}"]


def rendered() -> str:
    sections = [line for title, rows in SECTIONS.items() for line in (f"\n## {title}", *sum(map(_section, rows), []))]
    return "\n".join(sections) + "\n\n"


def parts() -> tuple[str, str, str]:
    """The document before, in and after the table."""
    before, rest = DOCUMENT.read_text().split(BEGIN)
    inside, after = rest.split(END)
    return before, inside, after


if __name__ == "__main__":
    before, _, after = parts()
    DOCUMENT.write_text(before + BEGIN + rendered() + END + after)
