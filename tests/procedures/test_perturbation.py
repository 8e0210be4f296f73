"""When the noise is there, which noise it is, and that nobody else sees it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import get_peft_model_state_dict
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from models import batch, causal_rows, same_bits, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method import Method
from rankwright.core.run import Run
from rankwright.core.slots import Procedure, ProcedureState, Slots
from rankwright.errors import MethodError, TrainingError
from rankwright.inits import Pissa
from rankwright.kernels.seeded_noise import Noise
from rankwright.layers import Dora
from rankwright.layers.stacked.layer import StackedLoRA
from rankwright.methods import BiDoRA, FlatLoRA, LoRA
from rankwright.procedures.chain.chain import Chain
from rankwright.procedures.perturbation import Perturbation, ramp

STEPS = 4
TARGETS: dict[str, Any] = {"r": 2, "lora_alpha": 4.0, "target_modules": ["q_proj", "v_proj"]}


@dataclass(frozen=True, kw_only=True)
class Parts(Method):
    """Any parts, as a method."""

    name: ClassVar[str] = "parts"
    summary: ClassVar[str] = "parts"
    reference: ClassVar[str] = "-"
    cost: ClassVar[str] = "-"

    parts: Slots

    def slots(self) -> Slots:
        return self.parts


def loop(method: Method, **options: Any) -> Loop:
    model = options.pop("wrap", lambda model: model)(method.apply(tiny_llama().double(), seed=3))
    return Loop(model, method, total_steps=STEPS, lr=1e-2, seed=options.pop("seed", 5), **options)


def data(step: int, rows: int = 4) -> dict[str, Tensor]:
    return batch(causal_rows(rows, seed=step))


def halves(step: int) -> list[dict[str, Tensor]]:
    whole = data(step)
    return [{key: value[i : i + 2] for key, value in whole.items()} for i in (0, 2)]


def adapter(run: Loop) -> dict[str, Tensor]:
    return get_peft_model_state_dict(run.model)


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the draws, in order."""
    drawn: list[int] = []
    draw = Noise.draw

    def recorded(noise: Noise, dtype: torch.dtype) -> Tensor:
        drawn.append(noise.seed)
        return draw(noise, dtype)

    monkeypatch.setattr(Noise, "draw", recorded)
    return drawn


def test_the_ramp_rises_from_none_to_all() -> None:
    values = [ramp(step, 10) for step in range(11)]
    assert values == sorted(values)
    assert (values[0], values[10]) == (0.0, 1.0)
    assert values[5] == pytest.approx(0.5)


def test_one_sample_a_module_and_step(seeds: list[int]) -> None:
    run = loop(FlatLoRA(**TARGETS))
    for step in range(STEPS):
        seeds.clear()
        run.train_step(*halves(step))
        modules = len(run.layers)
        assert len(set(seeds)) == (modules if step else 0)  # f = 0 at the first step
        # of two micro-batches: forward and backward; the first layer's inputs need no gradient
        assert len(seeds) == (2 * 2 * modules - 4 if step else 0)


def test_a_sample_for_each_micro_batch_if_wanted(seeds: list[int]) -> None:
    run = loop(FlatLoRA(per_micro_batch=True, **TARGETS))
    for step in range(2):
        run.train_step(*halves(step))
    assert len(set(seeds)) == 2 * len(run.layers)


def test_no_two_steps_modules_or_seeds_share_a_sample(seeds: list[int]) -> None:
    for seed in (5, 6):
        run = loop(FlatLoRA(**TARGETS), seed=seed)
        for step in range(STEPS):
            run.train_step(data(step))
    assert len(set(seeds)) == 2 * (STEPS - 1) * len(run.layers)


def test_accumulation_is_one_large_batch() -> None:
    whole, parts = loop(FlatLoRA(rho=0.5, **TARGETS)), loop(FlatLoRA(rho=0.5, **TARGETS))
    for step in range(STEPS):
        whole.train_step(data(step))
        parts.train_step(*halves(step))
    for name, value in adapter(whole).items():
        torch.testing.assert_close(adapter(parts)[name], value, rtol=0, atol=1e-10)


def test_gradient_checkpointing_changes_nothing() -> None:
    states = []
    for checkpointed in (False, True):
        run = loop(FlatLoRA(rho=0.5, **TARGETS))
        if checkpointed:
            run.model.enable_input_require_grads()
            run.model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        for step in range(STEPS):
            run.train_step(data(step))
        states.append(adapter(run))
    assert same_bits(*states)


class Watching(Loop):
    """A loop that looks at the model while a step is under way."""

    def fire(self, event: str) -> None:
        super().fire(event)
        self.seen = getattr(self, "seen", {})
        with torch.no_grad():
            self.seen.setdefault(event, []).append(self.model(**data(99)).loss.item())


def test_outside_forward_and_backward_the_model_is_clean() -> None:
    method = FlatLoRA(rho=0.5, **TARGETS)
    run = Watching(
        method.apply(tiny_llama().double(), seed=3), method, total_steps=STEPS, lr=0.0, seed=5
    )
    clean = run.model(**data(99)).loss.item()
    for step in range(STEPS):
        before = adapter(run)
        run.train_step(data(step))
        assert same_bits(adapter(run), before)
    assert run.seen["after_backward"] == run.seen["after_step"] == [clean] * STEPS
    noisy = run.seen["before_step"]
    assert noisy[0] == clean
    assert len({clean, *noisy}) == STEPS


def test_evaluation_and_saving_inside_a_step_are_clean(tmp_path: Path) -> None:
    run = loop(FlatLoRA(rho=0.5, **TARGETS))
    for step in range(2):
        run.train_step(data(step))
    expected, state = run.model.eval()(**data(99)).loss.item(), adapter(run)
    run.model.train()
    run.fire("before_step")
    assert run.model(**data(99)).loss.item() != expected
    with run.model.disable_adapter():
        reference = run.model(**data(99)).loss.item()
    assert run.model.eval()(**data(99)).loss.item() == expected
    assert same_bits(adapter(run), state)
    run.fire("after_backward")
    with run.model.train().disable_adapter():
        assert run.model(**data(99)).loss.item() == reference


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside another procedure"])
def test_a_failed_step_leaves_no_noise(beside: bool) -> None:
    noise = Perturbation(rho=0.5)
    run = loop(LoRA(**TARGETS).with_parts(procedure=[Chain(rounds=1), noise] if beside else noise))
    run.train_step(data(0))
    with torch.no_grad():
        before = run.model.train()(**data(1)).loss.item()
    with pytest.raises(ValueError, match="batch_size"):
        run.train_step({**data(1), "labels": torch.zeros(1, 2, dtype=torch.long)})
    with torch.no_grad():
        assert run.model.train()(**data(1)).loss.item() == before


def test_after_a_failed_step_training_goes_on_as_if_nothing_had_been() -> None:
    runs = [loop(FlatLoRA(rho=0.5, **TARGETS)) for _ in range(2)]
    for run in runs:
        run.train_step(data(0))
    with pytest.raises(ValueError, match="batch_size"):
        runs[0].train_step({**data(1), "labels": torch.zeros(1, 2, dtype=torch.long)})
    for run in runs:
        run.train_step(data(1))
    assert same_bits(adapter(runs[0]), adapter(runs[1]))


# With other parts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [{"layer": Dora()}, {"layer": StackedLoRA()}, {"init": Pissa()}],
    ids=["dora", "stacked", "pissa"],
)
def test_with_other_layers_and_starts(parts: dict[str, Any]) -> None:
    perturbed = Parts(parts=Slots(procedure=Perturbation(rho=0.5), **parts), **TARGETS)
    states = []
    for method in (perturbed, Parts(parts=Slots(**parts), **TARGETS)):
        run = loop(method)
        for step in range(2):
            run.train_step(data(step))
        states.append(adapter(run))
        assert all(value.isfinite().all() for value in states[-1].values())
    assert not same_bits(*states)


# Several processes -------------------------------------------------------------------------------


def _distributed_run(rank: int, store: str, together: bool) -> tuple[dict[str, Tensor], float]:
    timeout = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timeout)
    try:
        method = FlatLoRA(rho=0.5, same_on_all_processes=together, **TARGETS)
        run = loop(method, wrap=DistributedDataParallel)
        for step in range(STEPS):
            run.train_step(halves(step)[rank])
        return adapter(run), run.metrics["noise"]
    finally:
        dist.destroy_process_group()


def _second_process(_index: int, stores: list[str]) -> None:
    torch.set_num_threads(1)
    for store, together in zip(stores, (True, False), strict=True):
        _distributed_run(1, store, together)


def test_two_processes_are_one_process_or_draw_apart(tmp_path: Path) -> None:
    stores = [f"file://{tmp_path}/{name}" for name in ("together", "apart")]
    second = mp.spawn(_second_process, args=(stores,), nprocs=1, join=False)
    together, _ = _distributed_run(0, stores[0], True)
    apart, _ = _distributed_run(0, stores[1], False)
    second.join()
    alone = loop(FlatLoRA(rho=0.5, **TARGETS))
    for step in range(STEPS):
        alone.train_step(data(step))
    for name, value in adapter(alone).items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-6)
    assert any(not torch.allclose(apart[n], v, atol=1e-5) for n, v in together.items())


# What is refused ---------------------------------------------------------------------------------


def test_a_layer_that_is_not_linear_is_refused() -> None:
    method = FlatLoRA(r=2, target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(MethodError, match=r"embed_tokens is a Embedding; noise"):
        loop(method)


def test_without_its_events_the_run_ends_with_an_error() -> None:
    run = loop(FlatLoRA(**TARGETS))
    run._fired.add("after_step")
    with pytest.raises(TrainingError, match=r"flat_lora needs the events \["):
        run.finish()


@pytest.mark.parametrize("rho", [-0.1, float("inf"), float("nan")])
def test_a_wrong_rho_is_named(rho: float) -> None:
    with pytest.raises(MethodError, match=r"Perturbation\.rho = .*: expected a finite number"):
        Perturbation(rho=rho)


# Around other procedures -------------------------------------------------------------------------


def bilevel(mode: str, rho: float) -> Loop:
    """Noise around BiDoRA, one step before an upper step is due; noise is at its full strength."""
    method = BiDoRA(
        r=2,
        target_modules=["q_proj", "v_proj"],
        hypergradient=mode,
        retrain=False,
        gram_weight=0.0,
        fd_radius=1e-3,
    ).with_parts(procedure=Perturbation(rho=rho))
    model = method.apply(tiny_llama().double(), seed=3)
    run = Loop(
        model,
        method,
        total_steps=8,
        lr=1e-2,
        seed=5,
        optimizer=partial(torch.optim.SGD, momentum=0.9),
        held_out=lambda k: data(100 + k),
        schedule=constant_schedule,
    )
    for step in range(6):
        run.train_step(*halves(step))
    return run


def implicit_part(mode: str, rho: float = 1.0) -> float:
    """The term that evaluates the training batch again, relative to the one that does not."""
    return bilevel(mode, rho).metrics["implicit_to_direct"]


def test_a_hypergradient_sees_the_noise_of_the_step() -> None:
    """All modes differentiate one and the same noisy loss; a clean one would give another term."""
    exact, central, forward = (implicit_part(m) for m in ("exact", "fd_central", "fd_forward"))
    assert central == pytest.approx(exact, rel=1e-3)
    assert forward == pytest.approx(exact, rel=1e-2)
    assert implicit_part("exact", rho=0.0) != pytest.approx(exact, rel=1e-1)


@pytest.mark.parametrize("per_micro_batch", [False, True])
def test_a_training_batch_is_evaluated_again_under_its_own_noise(per_micro_batch: bool) -> None:
    seen: dict[str, list[Tensor]] = {"first": [], "again": [], "other": []}

    class Again(ProcedureState):
        needs = frozenset({"after_backward"})

        def after_backward(self) -> None:
            names = list(self.run.trainable().values())
            seen["first"] = [p.grad.clone() for p in names if p.grad is not None]
            seen["again"] = self.run.gradients(names, self.run.micro_batches)
            seen["other"] = self.run.gradients(names, [replace(b) for b in self.run.micro_batches])

    @dataclass(frozen=True)
    class Evaluates(Procedure):
        def start(self, run: Run) -> ProcedureState:
            return Again(run)

    noise = Perturbation(rho=0.5, per_micro_batch=per_micro_batch)
    for order in ([noise, Evaluates()], [Evaluates(), noise]):
        run = loop(LoRA(**TARGETS).with_parts(procedure=order))
        for step in range(2):
            run.train_step(*halves(step))
        assert len(seen["first"]) == len(seen["again"]) > 0
        for first, again in zip(seen["first"], seen["again"], strict=True):
            torch.testing.assert_close(again, first, rtol=0, atol=1e-15)
        assert any(not torch.equal(a, b) for a, b in zip(seen["first"], seen["other"], strict=True))
