"""Rows of tokens of causal models: what tokenizers add, and what a text already has."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GPTNeoXTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from rankwright.tasks import TaskError, task_from_files
from rankwright.tasks.errors import Where
from rankwright.tasks.prepared.causal import CausalEncoder
from rankwright.tasks.prepared.tokenizing import IGNORED, prefix

HERE = Where("train.jsonl", 1)


def byte_level(*special, template=None, **names):
    """A byte-level BPE without merges, `special` first; the template says what is added."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*special, *letters))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    if template is not None:
        tokens = [(token, vocabulary[token]) for token in special]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=tokens
        )
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def gpt2():
    end = "<|endoftext|>"
    return byte_level(end, bos_token=end, eos_token=end)


def llama3():
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    return byte_level(begin, end, template=f"{begin} $A", bos_token=begin, eos_token=end)


def smollm2():
    start, end = "<|im_start|>", "<|im_end|>"
    return byte_level(start, end, bos_token=start, eos_token=end)


def ends(template):
    special = ("<pad>", "<s>", "</s>")
    return byte_level(*special, template=template, bos_token="<s>", eos_token="</s>")


def gpt_neox(**flags):
    return GPTNeoXTokenizer(vocab={"<|endoftext|>": 0, "x": 1, "y": 2}, merges=[], **flags)


def llama2(**flags):
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "\u2581": 3, "x": 4, "y": 5}
    return LlamaTokenizer(vocab=vocabulary, merges=[], **flags)


STYLES = {
    "GPT-2": (gpt2(), []),
    "GPT-NeoX": (gpt_neox(), []),
    "GPT-NeoX, BOS switched on": (gpt_neox(add_bos_token=True), [0]),
    "Llama 3": (llama3(), [0]),
    "SmolLM2": (smollm2(), []),
    "Llama 2": (llama2(add_bos_token=True), [1]),
    "Llama 2, BOS switched off": (llama2(add_bos_token=False), []),
    "Llama 2, EOS switched on": (llama2(add_bos_token=True, add_eos_token=True), [1]),
    "BART": (ends("<s> $A </s>"), [1]),
    "T5": (ends("$A </s>"), []),
    "GLM, two tokens before": (ends("<pad> <s> $A"), [0, 1]),
}


@pytest.mark.parametrize(("tokenizer", "added"), STYLES.values(), ids=STYLES)
def test_rows_start_as_the_tokenizer_starts_a_text_and_end_with_one_eos(tokenizer, added):
    encoder, eos = CausalEncoder(tokenizer, 64), tokenizer.eos_token_id
    assert prefix(tokenizer) == added
    ask, say = encoder.pieces(["xx", "yx"])
    row = encoder.row(HERE, ask, say)
    assert row["input_ids"] == [*added, *ask, *say, eos]
    assert row["labels"] == [IGNORED] * len([*added, *ask]) + [*say, eos]
    assert encoder.row(HERE, [], say)["input_ids"] == [*added, *say, eos]
    assert encoder.row(HERE, ask, say, end=False)["input_ids"] == [*added, *ask, *say]
    assert encoder.prompt(ask, 5) == [*added, *ask]
    assert tokenizer("xx")["input_ids"][: len(added) + len(ask)] == encoder.prompt(ask, 5)


@pytest.mark.parametrize(("tokenizer", "added"), STYLES.values(), ids=STYLES)
def test_special_tokens_in_a_text_are_not_doubled(tokenizer, added):
    """A chat template writes BOS into its text; a completion may end with EOS."""
    encoder, eos = CausalEncoder(tokenizer, 64), tokenizer.eos_token_id
    begin = tokenizer.decode(added) or tokenizer.bos_token
    ask, say, plain = encoder.pieces(
        [f"{begin}xx", f"yx{tokenizer.eos_token}", f"{begin}x{tokenizer.eos_token}"]
    )
    assert say[-1] == eos
    ids = encoder.row(HERE, ask, say)["input_ids"]
    assert ids == [*ask, *say]
    assert encoder.prompt(ask, 5) == ask
    assert encoder.row(HERE, [], plain)["input_ids"] == plain
    start = len(added)
    assert encoder.row(HERE, [], plain)["labels"] == [IGNORED] * start + plain[start:]


def test_a_prompt_that_is_cut_keeps_the_prefix(words_with_bos):
    encoder = CausalEncoder(words_with_bos, 8)
    (prompt,) = encoder.pieces(["<s> a b c d e f g h"])
    assert encoder.row(HERE, prompt, [4])["input_ids"] == [1, 7, 8, 9, 10, 11, 4, 2]
    assert encoder.prompt(prompt, 4) == [1, 9, 10, 11]


def test_without_a_prefix_the_whole_row_is_there_for_the_text(words):
    encoder = CausalEncoder(words, 8)
    assert encoder.row(HERE, range(4, 14), [4])["input_ids"] == [*range(8, 14), 4, 2]
    assert encoder.row(HERE, [], [4])["labels"] == [4, 2]  # nothing comes before the first
    assert encoder.notices == ("1 prompts were cut to fit max_length=8 tokens",)


def test_a_single_token_is_refused_and_so_is_an_empty_prompt(words, words_with_bos):
    with pytest.raises(TaskError, match=r"^train\.jsonl:1: 1 token where at least 2 are needed"):
        CausalEncoder(words, 8).row(HERE, [], [4], end=False)
    with pytest.raises(
        TaskError, match=r"^train\.jsonl:1: the prompt has no tokens, and the token"
    ):
        CausalEncoder(words, 8).check_prompt(HERE, [])
    encoder = CausalEncoder(words_with_bos, 8)
    encoder.check_prompt(HERE, [])
    assert encoder.prompt([], 4) == [1]


def test_prompts_to_generate_from_are_checked_before_training(write):
    genes = Tokenizer(models.BPE({"</s>": 0, "A": 1, "C": 2}, merges=[]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=genes, eos_token="</s>")
    rows = write([{"p": "A", "c": "CC"}, {"p": "G", "c": "CA"}])
    task = task_from_files(
        rows, validation=rows, prompt_column="p", completion_column="c", metrics="bleu"
    )
    with pytest.raises(TaskError, match=r"train\.jsonl:2: the prompt has no tokens"):
        task.prepare(tokenizer)


@pytest.mark.parametrize("fixture", ["words", "words_with_bos"])
def test_choices_are_scored_on_the_rows_that_are_trained_on(write, request, llama, fixture):
    tokenizer = request.getfixturevalue(fixture)
    rows = write([{"question": "a", "choices": ["b", "c d"], "label": n} for n in (0, 1)])
    template = "{prompt} p"
    task = task_from_files(
        rows, validation=rows, choices_column="choices", prompt_template=template
    )
    prepared = task.prepare(tokenizer)
    start = tokenizer("a p")["input_ids"]
    assert prepared.train["input_ids"][:] == [[*start, 5, 2], [*start, 6, 7, 2]]
    row = prepared.rows.train[0]
    (scores,) = prepared.log_likelihoods(llama, [row])
    expected = -prepared.predict(llama)["nats"].predictions[0]
    with_end = [*start, 5, 2]
    with torch.no_grad():
        logp = llama(torch.tensor([with_end])).logits[0].log_softmax(-1)
    assert scores[0] == pytest.approx(logp[len(start) - 1, 5].item(), rel=1e-5)
    assert expected == pytest.approx(scores[0] + logp[-2, 2].item(), rel=1e-5)


def test_a_vocabulary_of_few_letters_tells_its_prefix_too():
    genes = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "A": 2, "C": 3}, merges=[]))
    genes.add_special_tokens(["<s>", "</s>"])
    genes.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=genes, bos_token="<s>", eos_token="</s>")
    assert tokenizer("x", add_special_tokens=False)["input_ids"] == []
    assert prefix(tokenizer) == [0]
