"""What must hold of XGBLoRA, on a tiny Llama and a tiny BERT."""

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peft import PeftModel, get_peft_model_state_dict
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.meters import saved_bytes
from models import batch, rows_for, same_bits, tiny_bert, tiny_llama
from rankwright.core.loop import Loop, constant_schedule
from rankwright.core.method_registry import get_method
from rankwright.errors import MethodError
from rankwright.methods import LoRA, XGBLoRA

BUILDS = [tiny_bert, tiny_llama]
STEPS = 8


def batches(model, steps=STEPS, size=4):
    rows = rows_for(model, steps * size)
    return [batch(rows[i * size : (i + 1) * size]) for i in range(steps)]


def logits(model):
    model.eval()
    inputs = batch(rows_for(model.get_base_model(), 3, seed=7))
    with torch.no_grad():
        return model(**inputs).logits


def base_logits(build):
    model = build().eval()
    with torch.no_grad():
        return model(**batch(rows_for(model, 3, seed=7))).logits


def loop(method, build, steps=STEPS, **options):
    options = {"lr": 1e-2, "weight_decay": 0.1, "seed": 5, **options}
    return Loop(method.apply(build(), seed=3), method, total_steps=steps, **options)


def train(run, steps=range(STEPS)):
    data = batches(run.model.get_base_model())
    for step in steps:
        run.train_step(data[step])
    return run


def dropped_bert():
    return tiny_bert(dropout=0.1)


# The special case ------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [dropped_bert, tiny_llama])
def test_one_round_on_all_layers_is_lora_bit_for_bit(build):
    shared = {"r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1}
    states = []
    for method in (LoRA(**shared), XGBLoRA(rounds=1, layers_per_round=None, **shared)):
        torch.manual_seed(11)
        run = train(loop(method, build, max_grad_norm=1.0))
        run.finish()
        config = run.model.peft_config["default"]
        states.append(get_peft_model_state_dict(run.model))
        assert (config.r, config.lora_alpha, config.rank_pattern) == (4, 8.0, {})
        states[-1]["logits"] = logits(run.model)
    assert same_bits(*states)


def test_s_alone_matters():
    fields = {"r": 4, "rounds": 3, "layers_per_round": 1}
    methods = XGBLoRA(lora_alpha=8, **fields), XGBLoRA(lora_alpha=4, use_rslora=True, **fields)
    outputs = [logits(train(loop(method, tiny_llama)).model) for method in methods]
    assert torch.equal(*outputs)


# At every step -----------------------------------------------------------------------------------


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("mode", ["history", "fold"])
def test_the_saved_adapter_is_the_model_and_the_base_is_untouched(build, mode, tmp_path):
    run = loop(XGBLoRA(rounds=4, mode=mode, rank_cap=1), build)
    base = {n: p.clone() for n, p in build().state_dict().items()}
    expected = base_logits(build)
    tolerance = {"history": 1e-6, "fold": 1e-5}[mode]
    for step, data in enumerate(batches(run.model.get_base_model())):
        run.train_step(data)
        run.model.save_pretrained(tmp_path / str(step))
        vanilla = PeftModel.from_pretrained(build(), tmp_path / str(step))
        torch.testing.assert_close(logits(vanilla), logits(run.model), rtol=0, atol=tolerance)
        selected = [p.requires_grad for p in run.model.parameters()]
        with run.model.disable_adapter():
            assert torch.equal(logits(run.model), expected)
        assert [p.requires_grad for p in run.model.parameters()] == selected
    run.finish()
    unloaded = run.model.unload().state_dict()
    kept = {n: t for n, t in unloaded.items() if "classifier" not in n}
    assert all(torch.equal(t, base[n]) for n, t in kept.items())


@pytest.mark.parametrize("build", [dropped_bert, tiny_llama])
def test_resume_at_every_step_gives_the_same_bits(build):
    method = XGBLoRA(rounds=4, lora_dropout=0.1)
    torch.manual_seed(11)
    straight = train(loop(method, build))
    expected = get_peft_model_state_dict(straight.model)
    for cut in range(1, STEPS):
        torch.manual_seed(11)
        state = train(loop(method, build), range(cut)).state_dict()
        torch.manual_seed(12)
        resumed = loop(method, build)
        resumed.load_state_dict(state)
        train(resumed, range(cut, STEPS))
        assert same_bits(get_peft_model_state_dict(resumed.model), expected)


def test_a_round_trains_a_constant_number_of_parameters():
    run = loop(XGBLoRA(rounds=4, r=2, lora_alpha=4), tiny_llama)
    per_layer = sum(
        2 * (layer.in_features + layer.out_features)
        for name, layer in run.layers.items()
        if ".layers.0." in name
    )
    for data in batches(run.model.get_base_model()):
        run.train_step(data)
        trained = [p for p in run.model.parameters() if p.requires_grad]
        over = run.step == STEPS
        assert sum(p.numel() for p in trained) == (0 if over else per_layer)
        assert set(run.optimizer.state) <= set(trained)


def test_nothing_is_kept_below_the_lowest_chosen_layer():
    """Every frozen layer above the chosen one costs the same bytes, every one below it none."""
    kept, inputs = [], batch(rows_for(tiny_llama(), 2))
    for chosen in range(3):
        policy = partial(lambda chosen, draw, round_, groups, count: [groups[chosen]], chosen)
        method = XGBLoRA(rounds=2, layers_per_round=1, modules_to_save=[])
        chain = replace(method.slots().procedure, selection=policy)
        method = LoRA(r=1).with_parts(procedure=chain)
        run = Loop(method.apply(tiny_llama()), method, total_steps=6)
        for _ in range(4):  # into the second round, where the layer has a history
            run.train_step(inputs)
        kept.append(saved_bytes(run.model, lambda run=run: run.model(**inputs).loss))
    assert kept[0] - kept[1] == kept[1] - kept[2] > kept[2] / 10


def test_the_head_keeps_its_moments():
    run = loop(XGBLoRA(rounds=4), tiny_bert)
    head = [p for n, p in run.model.named_parameters() if "modules_to_save" in n]
    assert len(head) == 2
    for step, data in enumerate(batches(run.model.get_base_model()), start=1):
        run.train_step(data)
        assert all(run.optimizer.state[p]["step"] == step for p in head)
    live = [p for s in run.procedure.boosters.stacks.values() for p in s.parameters]
    assert not any(p in run.optimizer.state for p in live)


def test_rank_is_the_number_of_rounds_that_chose_the_module():
    run = loop(XGBLoRA(rounds=8, selection="round_robin", layers_per_round=1), tiny_llama)
    chosen = dict.fromkeys(run.layers, 0)
    for step, data in enumerate(batches(run.model.get_base_model())):
        selected = run.procedure.selected
        run.train_step(data)
        for name in run.layers:
            chosen[name] += any(name.startswith(f"{g}.") for g in selected or []) if step else 0
    # the first selection is drawn inside the first step
    first = {
        name: stack.A.finished - chosen[name]
        for name, stack in run.procedure.boosters.stacks.items()
    }
    assert sorted(set(first.values())) == [0, 1]
    assert sum(first.values()) == len(run.layers) / 3


# One step a round --------------------------------------------------------------------------------


def test_one_step_rounds_are_gradient_descent_on_average():
    """E[W' - W] = -lr s^2 v G with v = 1 / (3 in), for rounds of one SGD step from B = 0."""
    rounds, lr, width = 1500, 1e-7, 7
    generator = torch.Generator().manual_seed(0)
    X, Y = (torch.randn(9, n, generator=generator, dtype=torch.float64) for n in (width, 5))
    linear = nn.Sequential(nn.Linear(width, 5, bias=False)).double()
    W = linear[0].weight.detach().clone()

    def loss(model, _):
        return (model(X) - Y).square().mean()

    method = XGBLoRA(rounds=rounds, layers_per_round=None, target_modules=["0"])
    run = Loop(
        method.apply(linear),
        method,
        total_steps=rounds,
        lr=lr,
        optimizer=torch.optim.SGD,
        schedule=constant_schedule,
        loss=loss,
    )
    for _ in range(rounds):
        run.train_step(None)
    (stack,) = run.procedure.boosters.stacks.values()
    A, B = stack.A.history, stack.B.history
    steps = 2.0 * torch.einsum("ot,ti->toi", B, A)
    G = 2 * (X @ W.T - Y).T @ X / Y.numel()
    expected = -lr * 2.0**2 / (3 * width) * G
    error = steps.std(0) / rounds**0.5
    assert ((steps.mean(0) - expected).abs() < 3 * error).all()


# Two processes -----------------------------------------------------------------------------------


def _float64_run(wrap):
    method = XGBLoRA(rounds=4)
    model = wrap(method.apply(tiny_llama().double(), seed=3))
    return Loop(model, method, total_steps=STEPS, lr=1e-2)


def _distributed_run(rank, store):
    timeout = timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timeout)
    try:
        run = _float64_run(lambda m: DistributedDataParallel(m, find_unused_parameters=True))
        for data in batches(run.model.get_base_model()):
            run.train_step({key: value[2 * rank : 2 * rank + 2] for key, value in data.items()})
        return get_peft_model_state_dict(run.model)
    finally:
        dist.destroy_process_group()


def _second_process(_index, store):
    torch.set_num_threads(1)
    _distributed_run(1, store)


def test_two_processes_are_one_process(tmp_path):
    store = f"file://{tmp_path}/store"
    second = mp.spawn(_second_process, args=(store,), nprocs=1, join=False)
    together = _distributed_run(0, store)
    second.join()
    alone = get_peft_model_state_dict(train(_float64_run(lambda model: model)).model)
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-6)


# The method --------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_its_page():
    method = XGBLoRA()
    chain = method.slots().procedure
    assert get_method("xgblora") is XGBLoRA
    assert (method.r, method.lora_alpha, method.target_modules) == (1, 2.0, "all-linear")
    assert (chain.rounds, chain.layers_per_round, chain.selection) == (None, 1 / 3, "uniform")
    assert (chain.shrinkage, chain.reset_optimizer, chain.lr_policy) == (1.0, True, "global")
    assert (chain.mode, chain.rank_cap) == ("history", 64)
    assert method.slots().filled() == ["layer", "procedure"]


def test_a_wrong_field_is_refused_when_it_is_given():
    with pytest.raises(MethodError, match="shrinkage = -1"):
        XGBLoRA(shrinkage=-1)
