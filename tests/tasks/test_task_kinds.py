"""Tokenised rows, metrics in a Trainer, and the same metrics without one, kind by kind."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

from rankwright.tasks import TaskError, load_task, task_from_files
from rankwright.tasks.errors import Where
from rankwright.tasks.prepared.causal import CausalEncoder
from rankwright.tasks.prepared.token_classification import align

IGNORED = -100


def bert(prepared, auto, vocabulary=30522):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        **prepared.model_kwargs,
    )
    return auto.from_config(config)


def trainer_metrics(prepared, model, folder):
    """What a Trainer reports when given the prepared task, without its eval_ prefix."""
    trainer = Trainer(
        model,
        TrainingArguments(
            folder, per_device_eval_batch_size=2, report_to=[], disable_tqdm=True, use_cpu=True
        ),
        train_dataset=prepared.train,
        eval_dataset=prepared.validation,
        data_collator=prepared.collator,
        compute_metrics=prepared.compute_metrics,
        preprocess_logits_for_metrics=prepared.preprocess_logits_for_metrics,
    )
    return {key.removeprefix("eval_"): value for key, value in trainer.evaluate().items()}


CLASSES = [
    {"a": "the cat sat", "b": "a dog ran away from the old house", "y": "no"},
    {"a": "it rains", "b": "it pours", "y": "yes"},
    {"a": "one two three four", "b": "five", "y": "no"},
]


def paired(rows, **options):
    return task_from_files(
        rows, validation=rows, text_column="a", text_pair_column="b", label_column="y", **options
    )


def test_a_pair_keeps_its_order_and_the_longer_text_is_cut(write, minilm):
    rows = write(CLASSES)
    prepared = paired(rows, max_length=9).prepare(minilm)
    text = minilm.decode(prepared.train[0]["input_ids"])
    assert text == "[CLS] the cat sat [SEP] a dog ran [SEP]"
    assert prepared.train["labels"][:] == [0, 1, 0]
    texts = [[row[column] for row in CLASSES] for column in "ab"]
    together = minilm(*texts, truncation="longest_first", max_length=9)
    for name, cells in together.items():
        assert prepared.train[name][:] == cells
    assert prepared.model_kwargs == {
        "num_labels": 2,
        "id2label": {0: "no", 1: "yes"},
        "label2id": {"no": 0, "yes": 1},
        "problem_type": "single_label_classification",
        "pad_token_id": 0,
    }
    assert prepared.rows.train[1]["b"] == "it pours"
    _, notice = prepared.notices  # every label occurs once
    assert re.fullmatch(r"\d rows were cut to fit max_length=9 tokens", notice)
    assert "cut" not in paired(rows, max_length=64).prepare(minilm).notices[-1]


PREDICTIONS = [
    ({}, CLASSES, ["accuracy", "macro_f1"]),
    ({"kind": "regression"}, [r | {"y": i * 1.5} for i, r in enumerate(CLASSES)], ["pearson"]),
    (
        {"kind": "multi_label"},
        [r | {"y": y} for r, y in zip(CLASSES, [["u", "v"], [], ["v"]], strict=True)],
        ["micro_f1", "macro_f1", "accuracy"],
    ),
]


@pytest.mark.parametrize(("options", "data", "metrics"), PREDICTIONS)
def test_text_tasks_score_alike_with_and_without_a_trainer(
    write, minilm, tmp_path, options, data, metrics
):
    prepared = paired(write(data), metrics=metrics, **options).prepare(minilm)
    model = bert(prepared, AutoModelForSequenceClassification)
    prepared.check_model(model)
    values = prepared.evaluate(model, batch_size=2)
    reported = trainer_metrics(prepared, model, tmp_path)
    assert list(values) == metrics
    assert values == pytest.approx({key: reported[key] for key in metrics})
    assert prepared.training_metric.name == prepared.task.primary_metric
    (outcome,) = prepared.predict(model).values()
    assert np.shape(outcome.references)[0] == np.shape(outcome.predictions)[0] == 3


def test_prediction_keeps_row_order_and_training_mode(write, minilm):
    data = [{"text": "word " * (7 - n), "label": n % 2} for n in range(7)]
    rows = write(data)
    prepared = task_from_files(rows, validation=rows, label_column="label").prepare(minilm)
    model = bert(prepared, AutoModelForSequenceClassification).train()
    outcome = prepared.predict(model, batch_size=3)["classes"]
    assert outcome.references == [0, 1, 0, 1, 0, 1, 0]
    one_by_one = prepared.predict(model, batch_size=1, limit=4)["classes"]
    assert one_by_one.predictions == outcome.predictions[:4]
    assert model.training


def test_words_are_tokenised_as_in_a_text(write, minilm):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: n for n, c in enumerate([*alphabet, "Ġr"])}, [("Ġ", "r")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>")
    rows = write([{"tokens": ["it", "rains"], "tags": ["O", "O"]}])
    task = task_from_files(rows, validation=rows, tags_column="tags")
    for tokenizer, pieces in (
        (bytewise, ["Ġ", "i", "t", "Ġr", "a", "i", "n", "s"]),
        (minilm, ["[CLS]", "it", "rains", "[SEP]"]),
    ):
        prepared = task.prepare(tokenizer)
        assert tokenizer.convert_ids_to_tokens(prepared.train[0]["input_ids"]) == pieces
        assert prepared.train[0]["labels"].count(0) == 2


def test_a_row_longer_than_the_model_is_refused(write, words, words_with_bos, llama):
    long = [{"text": "a " * 20, "label": n, "tokens": ["a"] * 20, "tags": ["O"] * 20} for n in "ab"]
    rows = write(long)
    config = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    for options, build in (
        ({"label_column": "label"}, AutoModelForSequenceClassification),
        ({"tags_column": "tags"}, AutoModelForTokenClassification),
    ):
        prepared = task_from_files(rows, validation=rows, **options).prepare(words)
        assert prepared.longest == 20
        for positions in (19, 20):
            short = BertConfig(
                max_position_embeddings=positions, num_attention_heads=1, **config,
                **prepared.model_kwargs,
            )  # fmt: skip
            model = build.from_config(short)
            if positions == 20:
                prepared.check_model(model)
                continue
            with pytest.raises(TaskError, match=r"20 tokens, and .*position_embeddings .* has 19"):
                prepared.check_model(model)
    text = task_from_files(rows, validation=rows, completion_column="text").prepare(words_with_bos)
    assert text.longest == 22
    text.check_model(llama)  # rotary
    gpt = GPT2Config(
        vocab_size=20, n_positions=21, n_embd=8, n_layer=1, n_head=1, bos_token_id=1, eos_token_id=2
    )
    with pytest.raises(TaskError, match=r"22 tokens, and transformer\.wpe .* has 21 positions"):
        text.check_model(AutoModelForCausalLM.from_config(gpt))


def test_a_head_of_another_size_is_refused(write, minilm):
    prepared = paired(write(CLASSES)).prepare(minilm)
    model = bert(prepared, AutoModelForSequenceClassification)
    model.config.num_labels = 5
    with pytest.raises(
        TaskError, match=r"has num_labels=5; the task needs 2\. Load it with AutoMod"
    ):
        prepared.check_model(model)


def test_decoders_can_classify(write, words_without_padding):
    rows = write([{"text": "a b", "label": 0}, {"text": "c", "label": 1}])
    task = task_from_files(rows, validation=rows, label_column="label")
    prepared = task.prepare(words_without_padding)
    assert prepared.notices[-1] == "the tokenizer has no padding token; '</s>' is used"
    assert words_without_padding.pad_token is None
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        **prepared.model_kwargs,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    assert set(prepared.evaluate(model)) == {"accuracy", "macro_f1"}


def test_a_tokenizer_that_cannot_pad_is_refused(write, words_without_padding):
    words_without_padding.eos_token = None
    rows = write([{"text": "a", "label": n} for n in range(2)])
    with pytest.raises(TaskError, match="no padding token, and no end-of-text token"):
        task_from_files(rows, validation=rows, label_column="label").prepare(words_without_padding)


def test_max_length(write, words):
    rows = write([{"text": "a " * 100, "label": n} for n in range(2)])
    task = task_from_files(rows, validation=rows, label_column="label")
    assert len(task.prepare(words).train[0]["input_ids"]) == 64  # the tokenizer's own limit
    words.model_max_length = int(1e30)
    long = write([{"text": "a " * 1000, "label": n} for n in range(2)], "long.jsonl")
    task = task_from_files(long, validation=long, label_column="label")
    assert len(task.prepare(words).train[0]["input_ids"]) == 512
    words.model_max_length = 64
    with pytest.raises(TaskError, match="max_length=65: the tokenizer's model takes at most 64"):
        task_from_files(rows, validation=rows, label_column="label", max_length=65).prepare(words)


def test_align():
    # [CLS] un ##wanted word [SEP]
    assert align([7, 8], [None, 0, 0, 1, None]) == [IGNORED, 7, IGNORED, 8, IGNORED]


NER = [
    {"tokens": ["Antananarivo", "is", "far"], "tags": ["B-loc", "O", "O"]},
    {"tokens": ["Ada", "Lovelace", "wrote"], "tags": ["B-per", "I-per", "O"]},
]


def test_the_first_piece_of_a_word_has_its_tag(write, minilm, tmp_path):
    rows = write(NER)
    prepared = task_from_files(rows, validation=rows, tags_column="tags").prepare(minilm)
    assert prepared.labels.names == ("B-loc", "B-per", "I-per", "O")
    row = prepared.train[0]
    pieces = minilm.convert_ids_to_tokens(row["input_ids"])
    tagged = {p: label for p, label in zip(pieces, row["labels"], strict=True) if label != IGNORED}
    assert tagged == {"ant": 0, "is": 3, "far": 3}  # the pieces: ant ##ana ##nar ##ivo
    model = bert(prepared, AutoModelForTokenClassification)
    prepared.check_model(model)
    outcome = prepared.predict(model)["tags"]
    assert outcome.references == [row["tags"] for row in NER]
    assert [len(tags) for tags in outcome.predictions] == [3, 3]
    reported = trainer_metrics(prepared, model, tmp_path)
    assert prepared.evaluate(model)["entity_f1"] == reported["entity_f1"]


def test_words_beyond_max_length_are_counted(write, minilm):
    rows = write([{"tokens": ["word"] * 10, "tags": ["O"] * 10}])
    task = task_from_files(rows, validation=rows, tags_column="tags", max_length=8)
    (notice,) = task.prepare(minilm).notices  # 6 of 10 fit, in train and in validation
    assert notice.startswith("8 words are left out of training and of entity_f1")


COMPLETIONS = [{"p": "a b c", "c": "d e"}, {"p": "f", "c": "g h i"}]


def completion_task(write, rows, **options):
    path = write(rows)
    options = {"prompt_template": "{prompt} p", **options}
    return task_from_files(
        path, validation=path, prompt_column="p", completion_column="c", **options
    )


def test_loss_is_on_the_completion_only(write, words_with_bos):
    prepared = completion_task(write, COMPLETIONS).prepare(words_with_bos)
    # <s> a b c p d e </s>
    assert prepared.train[0]["input_ids"] == [1, 4, 5, 6, 19, 7, 8, 2]
    assert prepared.train[0]["labels"] == [IGNORED] * 5 + [7, 8, 2]
    batch = prepared.collator(prepared.train.to_list())
    assert batch["labels"][1].tolist() == [IGNORED] * 3 + [10, 11, 12, 2, IGNORED]
    assert batch["attention_mask"][1].tolist() == [1] * 7 + [0]


def test_plain_text_has_loss_on_all_of_it(write, words_with_bos):
    rows = write([{"text": "a b"}])
    prepared = task_from_files(rows, validation=rows, kind="causal_lm").prepare(words_with_bos)
    assert prepared.train[0]["input_ids"] == [1, 4, 5, 2]
    assert prepared.train[0]["labels"] == [IGNORED, 4, 5, 2]


def test_the_prompt_is_cut_from_its_left_and_the_completion_stays(write, words_with_bos):
    rows = [{"p": "a b c d e f g h", "c": "i j"}]
    prepared = completion_task(write, rows, max_length=8).prepare(words_with_bos)
    assert prepared.train[0]["input_ids"] == [1, 9, 10, 11, 19, 12, 13, 2]  # <s> f g h p i j </s>
    assert prepared.notices == ("2 prompts were cut to fit max_length=8 tokens",)


def test_a_completion_that_fills_the_row_is_cut_and_counted(write, words_with_bos):
    rows = [{"p": "p", "c": "a b c d e f g h i"}]
    prepared = completion_task(write, rows, max_length=8).prepare(words_with_bos)
    assert prepared.train[0]["labels"] == [IGNORED, 4, 5, 6, 7, 8, 9, 10]
    assert prepared.notices[1] == "2 completions were cut to fit max_length=8 tokens"


def test_a_row_without_anything_to_predict_is_refused(write, words):
    with pytest.raises(TaskError, match=r"^train\.jsonl:2: 1 token where at least 2 are needed"):
        CausalEncoder(words, 8).row(Where("train.jsonl", 2), [], [])


def test_likelihoods_agree_with_the_model_and_the_trainer(write, words, llama, tmp_path):
    prepared = completion_task(write, COMPLETIONS).prepare(words)
    prepared.check_model(llama)
    nats = []
    for row in prepared.validation:
        with torch.no_grad():
            logp = llama(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        pairs = enumerate(row["labels"][1:])
        nats.append(-sum(logp[at, token].item() for at, token in pairs if token != IGNORED))
    outcome = prepared.predict(llama)["nats"]
    assert outcome.predictions == pytest.approx(nats, rel=1e-5)
    assert outcome.references == [3, 4]
    values = prepared.evaluate(llama)
    assert values["loss_per_token"] == pytest.approx(sum(nats) / 7, rel=1e-5)
    assert values["perplexity"] == pytest.approx(math.exp(sum(nats) / 7), rel=1e-5)
    reported = trainer_metrics(prepared, llama, tmp_path)
    assert values == pytest.approx({key: reported[key] for key in values})


def test_generation_in_batches_is_generation_one_by_one(write, words, llama):
    rows = [{"p": "a b c d e f", "c": "x"}, {"p": "g", "c": "h"}, {"p": "i j", "c": "k"}]
    task = completion_task(write, rows, metrics=["bleu"], max_new_tokens=5)
    prepared = task.prepare(words)
    assert prepared.training_metric.name == "loss_per_token"
    prompts = [task.shown(row) for row in prepared.rows.validation]
    batched = prepared.generate(llama, prompts, batch_size=3)
    assert batched == [prepared.generate(llama, [prompt])[0] for prompt in prompts]
    assert any(batched)
    values = prepared.evaluate(llama, batch_size=2)
    assert list(values) == ["bleu", "loss_per_token", "perplexity"]
    assert len(prepared.predict(llama, limit=2)["texts"].predictions) == 2


def test_all_references_count_and_the_first_is_the_completion(write, words_with_bos, llama):
    train = write([{"p": "a", "c": "b"}])
    validation = write([{"p": "a", "refs": ["c d", "e"]}], "v.jsonl")
    task = task_from_files(
        train,
        validation,
        prompt_column="p",
        completion_column="c",
        references_column="refs",
        metrics="bleu",
        max_new_tokens=4,
        prompt_template="{prompt}",
    )
    prepared = task.prepare(words_with_bos)
    assert prepared.validation[0]["input_ids"] == [1, 4, 6, 7, 2]
    assert prepared.predict(llama)["texts"].references == [["c d", "e"]]


def test_generation_needs_room_for_a_prompt(write, words):
    task = completion_task(write, COMPLETIONS, metrics="bleu", max_new_tokens=63)
    with pytest.raises(TaskError, match="max_new_tokens=63 leaves no room for a prompt in max_len"):
        task.prepare(words)


QUESTIONS = [
    {"question": "a", "choices": ["b c", "d", "e f g"], "label": 0},
    {"question": "h i", "choices": ["j", "k l"], "label": 1},
]


@pytest.mark.parametrize("normalised", [True, False])
def test_the_likeliest_choice_is_chosen(write, words_with_bos, llama, normalised):
    rows = write(QUESTIONS)
    task = task_from_files(
        rows,
        validation=rows,
        choices_column="choices",
        label_column="label",
        prompt_template="{prompt} p",
        length_normalised=normalised,
    )
    prepared = task.prepare(words_with_bos)
    assert prepared.train[1]["labels"] == [IGNORED] * 4 + [14, 15, 2]  # k l </s>
    chosen = []
    for row in QUESTIONS:
        start = words_with_bos.encode(f"<s> {row['question']} p", add_special_tokens=False)
        scores = []
        for choice in row["choices"]:
            ids = words_with_bos.encode(choice, add_special_tokens=False)
            with torch.no_grad():
                logp = llama(torch.tensor([start + ids])).logits[0].log_softmax(-1)
            at = range(len(start) - 1, len(start) + len(ids) - 1)
            total = sum(logp[i, token].item() for i, token in zip(at, ids, strict=True))
            scores.append(total / len(ids) if normalised else total)
        chosen.append(scores.index(max(scores)))
    outcomes = prepared.predict(llama, batch_size=2)
    assert outcomes["classes"].predictions == chosen
    assert outcomes["classes"].references == [0, 1]
    assert set(prepared.evaluate(llama)) == {"accuracy", "loss_per_token", "perplexity"}


def test_encoders_are_refused_by_likelihood_tasks(write, words, minilm, bert_lm):
    rows = write(QUESTIONS)
    options = {"choices_column": "choices", "label_column": "label"}
    task = task_from_files(rows, validation=rows, **options)
    with pytest.raises(TaskError, match="BertTokenizer has no end-of-text token"):
        task.prepare(minilm)
    with pytest.raises(TaskError, match=r"BertLMHeadModel sees later tokens .* Use a causal lang"):
        task.prepare(words).evaluate(bert_lm)


def test_a_model_without_a_vocabulary_is_refused(write, words):
    config = BertConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    model = AutoModelForTokenClassification.from_config(config)
    prepared = completion_task(write, COMPLETIONS).prepare(words)
    with pytest.raises(TaskError, match=r"logits of shape \(2, 8, 2\) .* \(2, 8, 20 or more\)"):
        prepared.check_model(model)


def test_an_empty_split_is_refused_before_it_divides_by_zero(write, words):
    rows = write([{"text": "a"}])
    prepared = task_from_files(rows, validation=rows, kind="causal_lm").prepare(words)
    empty = replace(prepared, rows=replace(prepared.rows, test=()))
    with pytest.raises(TaskError, match="split 'test' of task 'train' is empty"):
        empty.dataset("test")


# The shared data, where it is there.


@pytest.mark.parametrize(
    ("name", "train", "validation", "labels"),
    [
        ("rte", 2490, 277, 2),
        ("cola", 8551, 1043, 2),
        ("stsb", 5749, 1500, 1),
        ("wnut17", 3394, 1009, 13),
    ],
)
def test_shared_data(data_root, monkeypatch, pytestconfig, minilm, name, train, validation, labels):
    monkeypatch.setenv("RANKWRIGHT_DATA", str(data_root))
    spec = pytestconfig.rootpath / "examples" / "tasks" / f"{name}.yaml"
    prepared = load_task(spec).prepare(minilm)
    assert (len(prepared.train), len(prepared.validation)) == (train, validation)
    assert prepared.model_kwargs["num_labels"] == labels


def test_shared_generation(data_root, stories_path, monkeypatch, pytestconfig):
    monkeypatch.setenv("RANKWRIGHT_DATA", str(data_root))
    spec = pytestconfig.rootpath / "examples" / "tasks" / "e2e.yaml"
    # The validation file twice: the training file is large, and prepared in the same way.
    task = load_task(spec, train="validation.jsonl.gz", max_new_tokens=16, test=None)
    prepared = task.prepare(AutoTokenizer.from_pretrained(stories_path))
    model = AutoModelForCausalLM.from_pretrained(stories_path)
    prepared.check_model(model)
    values = prepared.evaluate(model, limit=8)
    assert 0 <= values["bleu"] < 5
    assert 3 < values["loss_per_token"] < 6


def test_shared_multiple_choice(data_root, stories_path):
    task = load_task(
        data_root / "arc_easy" / "train.jsonl.gz",
        validation_share=0.1,
        choices_column="choices",
        label_column="label",
    )
    prepared = task.prepare(AutoTokenizer.from_pretrained(stories_path))
    model = AutoModelForCausalLM.from_pretrained(stories_path)
    assert 0 <= prepared.evaluate(model, limit=16)["accuracy"] < 0.8
