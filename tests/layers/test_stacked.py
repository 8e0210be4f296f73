import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from rankwright.errors import MethodError
from rankwright.layers.stacked.factor import WorkingCopy
from rankwright.layers.stacked.layer import StackedLoRA, stacks, write_ranks
from rankwright.peft_layers.layers import adapted_layers

# PEFT sets fan_in_fan_out by itself and says so
GPT2 = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set")


def linear(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, 4))).to(dtype)


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20, n_positions=16, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval()


def stacked(model, **options):
    torch.manual_seed(1)
    options = {"r": 2, "lora_alpha": 3, "target_modules": ["0", "2.0"], **options}
    peft_model = get_peft_model(model, LoraConfig(**options))
    StackedLoRA().install(peft_model, "default")
    return peft_model, stacks(adapted_layers(peft_model), "default")


def random_pair(stack, seed):
    generator = torch.Generator().manual_seed(seed)
    for live in stack.parameters:
        live.data.copy_(torch.randn(live.shape, generator=generator))


def grow(stacks, boosters=3, shrinkage=1.0):
    for number, stack in enumerate(stacks.values()):
        for seed in range(boosters + number):
            random_pair(stack, seed)
            stack.absorb(shrinkage)
        random_pair(stack, 99)


def output(model, x):
    with torch.no_grad():
        out = model(x)
    return out if isinstance(out, torch.Tensor) else out.logits


def test_without_history_it_is_peft_bit_for_bit():
    x = torch.randn(7, 6, requires_grad=True)
    results = []
    for install in (False, True):
        torch.manual_seed(1)
        model = get_peft_model(linear(), LoraConfig(r=2, target_modules=["0"], lora_dropout=0.5))
        if install:
            StackedLoRA().install(model, "default")
        model.base_model.model[0].lora_B["default"].weight.data.normal_(generator=seeded(2))
        torch.manual_seed(3)
        y = model(x)
        y.square().sum().backward()
        results.append(
            [y.detach(), x.grad, *(p.grad for p in model.parameters() if p.requires_grad)]
        )
        x.grad = None
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_an_absorbed_booster_computes_what_it_did():
    model, found = stacked(linear(torch.float64))
    x = torch.randn(7, 6, dtype=torch.float64)
    for stack in found.values():
        random_pair(stack, 5)
    before = output(model, x)
    live = [p for stack in found.values() for p in stack.parameters]
    for stack in found.values():
        stack.absorb(1.0)
    torch.testing.assert_close(output(model, x), before, rtol=1e-12, atol=1e-14)
    assert all(
        a is b for a, b in zip(live, (p for s in found.values() for p in s.parameters), strict=True)
    )
    assert all(not stack.B.live.any() for stack in found.values())


def test_the_stack_is_the_sum_of_its_boosters():
    _, found = stacked(linear(torch.float64))
    stack = next(iter(found.values()))
    total = torch.zeros(5, 6, dtype=torch.float64)
    for seed, shrinkage in ((0, 1.0), (1, 0.5), (2, 0.25)):
        random_pair(stack, seed)
        total += shrinkage * 1.5 * stack.B.live.detach() @ stack.A.live.detach()
        stack.absorb(shrinkage)
    delta = stack.layer.get_delta_weight("default").detach()
    torch.testing.assert_close(delta, total, rtol=1e-12, atol=1e-14)

    order = torch.tensor([4, 5, 0, 1, 2, 3])
    stack.A.history, stack.B.history = stack.A.history[order], stack.B.history[:, order]
    permuted = stack.layer.get_delta_weight("default").detach()
    torch.testing.assert_close(permuted, total, rtol=1e-12, atol=1e-14)


def test_a_booster_that_learned_nothing_is_dropped():
    _, found = stacked(linear())
    stack = next(iter(found.values()))
    stack.absorb(1.0)
    assert stack.A.finished == 0


def test_dropout_sees_the_live_booster_only():
    model, found = stacked(linear(), lora_dropout=0.9)
    grow(found)
    for stack in found.values():
        stack.B.live.data.zero_()
    x = torch.randn(7, 6)
    model.train()
    noisy = output(model, x)
    model.eval()
    torch.testing.assert_close(noisy, output(model, x))

    random_pair(next(iter(found.values())), 4)
    model.train()
    assert not torch.allclose(output(model, x), output(model, x))


def test_gradients_reach_the_live_booster_only():
    model, found = stacked(linear(torch.float64))
    grow(found)
    x = torch.randn(7, 6, dtype=torch.float64)
    y = model(x)
    y.square().sum().backward()
    stack = found["base_model.model.2.0"]
    hidden = torch.tanh(model.base_model.model[0](x))
    G = (2 * y).T @ hidden
    torch.testing.assert_close(stack.A.live.grad, 1.5 * stack.B.live.T @ G)
    torch.testing.assert_close(stack.B.live.grad, 1.5 * G @ stack.A.live.T)
    assert sum(p.requires_grad for p in model.parameters()) == 4


def test_what_is_not_selected_takes_no_part():
    model, found = stacked(linear())
    grow(found)
    stack = found["base_model.model.0"]
    before = stack.A.history.clone()
    stack.select(False)
    stack.train_live(False)
    assert stack.rank == stack.A.weight.shape[0] == 6
    model(torch.randn(7, 6)).sum().backward()
    assert stack.A.live.grad is None
    assert torch.equal(stack.A.weight, before)
    with model.disable_adapter():
        pass
    assert not any(p.requires_grad for p in stack.parameters)
    assert all(p.requires_grad for p in found["base_model.model.2.0"].parameters)
    model.set_adapter("default")
    assert not any(p.requires_grad for p in stack.parameters)
    stack.train_live(True)
    model.set_adapter("default")
    assert all(p.requires_grad for p in stack.parameters)


@pytest.mark.parametrize("use_rslora", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_vanilla_peft_loads_it(tmp_path, live, use_rslora):
    patterns = {"rank_pattern": {"2.0": 3}, "alpha_pattern": {"2.0": 5}}
    model, found = stacked(linear(), use_rslora=use_rslora, **patterns)
    grow(found)
    found["base_model.model.0"].select(live)
    write_ranks(model, "default", found)
    model.eval().save_pretrained(tmp_path)
    x = torch.randn(7, 6)
    vanilla = PeftModel.from_pretrained(linear(), tmp_path).eval()
    torch.testing.assert_close(output(vanilla, x), output(model, x), rtol=0, atol=1e-6)
    for ours, theirs in zip(
        adapted_layers(model).values(), adapted_layers(vanilla).values(), strict=True
    ):
        assert theirs.r == ours.r
        assert theirs.scaling["default"] == pytest.approx(ours.scaling["default"], rel=1e-15)
    merged = vanilla.merge_and_unload()
    torch.testing.assert_close(output(merged, x), output(model, x), rtol=1e-5, atol=1e-6)


def test_patterns_name_one_module_each():
    model, found = stacked(
        nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4))), target_modules=["0"]
    )
    assert list(found) == ["base_model.model.0", "base_model.model.1.0"]
    grow(found, boosters=2)
    write_ranks(model, "default", found)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (8, 12)
    assert config.rank_pattern == {"^0$": 6}
    assert config.alpha_pattern == {"^0$": 9}


def test_equal_ranks_need_no_pattern():
    model, found = stacked(linear())
    write_ranks(model, "default", found)
    config = model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (2, 3)
    assert config.rank_pattern == config.alpha_pattern == {}


def test_a_stack_of_another_size_is_refused():
    model, found = stacked(linear())
    state = copy.deepcopy(model.state_dict())
    grow(found)
    with pytest.raises(RuntimeError, match="load the procedure's state"):
        model.load_state_dict(state)
    del state["base_model.model.0.lora_A.default.weight"]
    for stack in found.values():
        stack.resize(0)
    assert model.load_state_dict(state, strict=False).missing_keys == [
        "base_model.model.0.lora_A.default.weight"
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_fold_adds_to_a_copy_and_rounds_once(dtype):
    model, found = stacked(linear(dtype))
    grow(found)
    base = {n: p.clone() for n, p in model.named_parameters() if "base_layer" in n}
    x = torch.randn(7, 6).to(dtype)
    before = output(model, x)
    for stack in found.values():
        W, wide = stack.layer.get_base_layer().weight, torch.promote_types(dtype, torch.float32)
        A, B = (f.history.to(wide) for f in (stack.A, stack.B))
        stack.fold(stack.A.finished)
        assert torch.equal(stack.layer.base_layer.working, (W.to(wide) + 1.5 * (B @ A)).to(dtype))
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 2e-2}[dtype]
    assert (output(model, x) - before).norm() < tolerance * before.norm()
    with model.disable_adapter():
        assert torch.equal(output(model, x), output(linear(dtype), x))
    for stack in found.values():
        stack.unfold()
    assert torch.equal(output(model, x), before)
    after = {n: p for n, p in model.named_parameters() if "base_layer" in n}
    assert base.keys() == after.keys()
    assert all(torch.equal(base[n], after[n]) for n in base)


def test_boosters_go_on_above_a_folded_history():
    model, found = stacked(linear(torch.float64))
    grow(found)
    x = torch.randn(7, 6, dtype=torch.float64)
    for stack in found.values():
        stack.fold(4)
    twin = copy.deepcopy(model)
    for stack in found.values():
        stack.unfold()
    torch.testing.assert_close(output(twin, x), output(model, x), rtol=1e-12, atol=1e-14)
    twin.base_model.model[0].base_layer.working.zero_()
    assert not torch.allclose(output(twin, x), output(model, x))  # the copy has its own owner


def test_no_process_sends_its_buffers_to_another():
    model, found = stacked(linear())
    grow(found)
    for stack in found.values():
        stack.fold(stack.A.finished)
    names = {name for name, _ in model.named_buffers()}
    assert len(names) == 6
    assert names == set(model._ddp_params_and_buffers_to_ignore)


def test_a_folded_layer_merges_from_the_base(tmp_path):
    model, found = stacked(linear(torch.float64))
    grow(found)
    x = torch.randn(7, 6, dtype=torch.float64)
    expected = output(model, x)
    for stack in found.values():
        stack.fold(stack.A.finished)
    model.merge_adapter()
    torch.testing.assert_close(output(model, x), expected, rtol=1e-12, atol=1e-14)
    model.unmerge_adapter()
    torch.testing.assert_close(output(model, x), expected, rtol=1e-12, atol=1e-14)
    merged = model.merge_and_unload()
    assert not any(isinstance(m, WorkingCopy) for m in merged.modules())
    torch.testing.assert_close(output(merged, x), expected, rtol=1e-12, atol=1e-14)


@GPT2
@pytest.mark.parametrize("fold", [False, True])
def test_conv1d_of_gpt2(tmp_path, fold):
    model, found = stacked(gpt2(), target_modules=["c_attn", "c_fc", "c_proj"])
    grow(found)
    ids = torch.arange(12).view(2, 6)
    before = output(model, ids)
    if fold:
        for stack in found.values():
            assert stack.can_fold()
            stack.fold(stack.A.finished)
        torch.testing.assert_close(output(model, ids), before, rtol=1e-5, atol=1e-5)
    with model.disable_adapter():
        assert torch.equal(output(model, ids), output(gpt2(), ids))
    write_ranks(model, "default", found)
    model.save_pretrained(tmp_path)
    vanilla = PeftModel.from_pretrained(gpt2(), tmp_path).eval()
    torch.testing.assert_close(output(vanilla, ids), before, rtol=1e-6, atol=1e-6)


def test_recompression_keeps_the_best_part():
    _, found = stacked(linear(torch.float64))
    grow(found, boosters=2)
    stack = next(iter(found.values()))
    delta = 1.5 * stack.B.history @ stack.A.history
    sigma = torch.linalg.svdvals(delta)
    energy = stack.recompress(2)
    assert stack.A.finished == 2
    assert energy == pytest.approx(float(sigma[2:].square().sum()), rel=1e-10)
    kept = 1.5 * stack.B.history @ stack.A.history
    assert float((delta - kept).square().sum()) == pytest.approx(energy, rel=1e-10)


class Quantised(nn.Linear):
    """A linear layer with integer weights."""

    def __init__(self):
        super().__init__(6, 5)
        codes = torch.randint(-9, 9, (5, 6), dtype=torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype) / 9, self.bias)


def test_a_quantised_base_has_a_history_but_no_fold():
    model, found = stacked(nn.Sequential(Quantised()), target_modules=["0"])
    (stack,) = found.values()
    random_pair(stack, 0)
    x = torch.randn(7, 6)
    before = output(model, x)
    stack.absorb(1.0)
    torch.testing.assert_close(output(model, x), before)
    assert not stack.can_fold()


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (nn.Sequential(nn.Conv2d(2, 3, 3)), {"target_modules": ["0"]}, "is a Conv2d"),
        (nn.Sequential(nn.Embedding(5, 4)), {"target_modules": ["0"]}, "is a Embedding"),
        (linear(), {"use_dora": True}, "DoRA-like"),
        (linear(), {"lora_bias": True}, "lora_bias=True"),
    ],
)
def test_layers_that_do_not_add_up_are_refused(model, options, message):
    with pytest.raises(MethodError, match=message):
        stacked(model, **options)


def test_plain_layers_are_no_stacks():
    model = get_peft_model(linear(), LoraConfig(target_modules=["0"]))
    with pytest.raises(MethodError, match="takes Slots"):
        stacks(adapted_layers(model), "default")


def test_it_says_how_large_it_is():
    _, found = stacked(linear())
    grow(found)
    assert "rank=8, finished=6, selected=True" in repr(found["base_model.model.0"].A)
