"""A new head may learn at a rate of its own."""

from transformers import TrainingArguments

from models import rows_for, tiny_bert
from rankwright.methods import LoRA
from rankwright.training import Trainer


def rates(tmp_path, head):
    model = LoRA().apply(tiny_bert())
    arguments = TrainingArguments(str(tmp_path), learning_rate=1e-3, use_cpu=True, report_to=[])
    trainer = Trainer(
        model, arguments, train_dataset=rows_for(model, 8), method=LoRA(), head_learning_rate=head
    )
    optimizer = trainer.create_optimizer()
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}


def test_the_head_has_its_own_rate(tmp_path):
    found = rates(tmp_path, 2e-2)
    assert {rate for name, rate in found.items() if "classifier" in name} == {2e-2}
    assert {rate for name, rate in found.items() if "classifier" not in name} == {1e-3}


def test_without_one_it_learns_like_the_rest(tmp_path):
    assert set(rates(tmp_path, None).values()) == {1e-3}
