"""`rankwright train` from data files to a run folder; repeated, stopped, resumed, refused."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas
import pytest
import yaml
from transformers import TrainerCallback, TrainerState

from rankwright.cli import main
from rankwright.cli.interrupt import interrupt_saves, say_at_once
from rankwright.job import TrainConfig
from rankwright.training.signals import Termination
from saved_models import adapter_bytes, labelled_rows

Train = Callable[..., int]


def test_a_run_folder_and_the_table(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--method", "dora", "--method.r", "2", "--seed", "3") == 0
    run = Path("runs/dora-train-3")
    assert {path.name for path in run.iterdir()} == {
        "run.yaml",
        "head.json",
        "result.json",
        "history.json",
        "rankwright_manifest.json",
        "data.json",
        "adapter",
        "checkpoints",
    }
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert result["before"].keys() == result["after"].keys() == {"accuracy", "macro_f1"}
    assert (result["method"], result["seed"], result["cost"]["steps"]) == ("dora", 3, 6)
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {
        path.name for path in (run / "adapter").iterdir()
    }
    shown = capsys.readouterr()
    for words in (
        "dora on train",
        "validation accuracy",
        "trainable parameters",
        "stored parameters",
        "peak memory",
        "step time",
        "passes",
        f"adapter: {run}/adapter",
    ):
        assert words in shown.out
    assert "train: step 6/6, loss" in shown.err
    assert "%|" not in shown.err
    assert "Warning" not in shown.err


def _as_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _as_gzip(path: Path, rows: Sequence[dict[str, str]]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def _as_parquet(path: Path, rows: Sequence[dict[str, str]]) -> None:
    pandas.DataFrame(rows).to_parquet(path)


@pytest.mark.parametrize(
    ("name", "write"),
    [("train.csv", _as_csv), ("train.jsonl.gz", _as_gzip), ("train.parquet", _as_parquet)],
)
def test_data_files_of_every_form_give_the_same_run(
    train: Train, tmp_path: Path, name: str, write: Callable[..., None]
) -> None:
    write(tmp_path / name, labelled_rows())
    assert train("--method", "lora", "--output", "jsonl", "--steps", "2") == 0
    assert train("--method", "lora", "--output", "o", "--steps", "2", "--data", name) == 0
    assert adapter_bytes(tmp_path / "o") == adapter_bytes(tmp_path / "jsonl")


def test_a_task_file_and_its_notices(
    train: Train,
    bert_folder: Path,
    rows_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [{"tokens": row["sentence"].split(), "tags": ["O"] * 7} for row in labelled_rows(12)]
    words[0]["tags"][0] = "B-thing"
    Path("words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words), "utf-8")
    Path("words.yaml").write_text(
        "kind: token_classification\ntrain: words.jsonl\nvalidation: words.jsonl\n"
        "tokens_column: tokens\ntags_column: tags\nmax_length: 8\n",
        "utf-8",
    )
    arguments = ["--model", str(bert_folder), "--task", "words.yaml", "--steps", "1"]
    assert main(["train", "--method", "lora", *arguments]) == 0
    assert "max_length" in capsys.readouterr().err
    assert Path("runs/lora-words-0/result.json").exists()


def test_a_causal_model_on_plain_text(train: Train, llama_folder: Path, rows_file: Path) -> None:
    arguments = ["--model", str(llama_folder), "--data", str(rows_file), "--steps", "2"]
    arguments += ["--completion-column", "sentence", "--validation-share", "0.2"]
    assert main(["train", "--method", "lora", *arguments]) == 0
    result = json.loads(Path("runs/lora-train-0/result.json").read_text("utf-8"))
    assert result["primary_metric"] == "loss_per_token"


def test_its_own_description_repeats_a_run_bit_for_bit(train: Train, tmp_path: Path) -> None:
    betas = ("--method.upper_betas", "[0.9, 0.98]")
    assert train("--method", "bidora", *betas, "--output", "first") == 0
    again = ["train", "--config", "first/run.yaml", "--output", "again"]
    assert main(again) == 0
    assert adapter_bytes(tmp_path / "first") == adapter_bytes(tmp_path / "again")
    described = [yaml.safe_load(Path(run, "run.yaml").read_text()) for run in ("first", "again")]
    assert described[0].pop("output") == "first"
    assert described[1].pop("output") == "again"
    assert described[0] == described[1]


def test_another_method_on_top_of_a_description(train: Train) -> None:
    assert train("--method", "xgblora", "--method.rounds", "2", "--output", "first") == 0
    assert main(["train", "--config", "first/run.yaml", "--method", "lora", "--output", "o"]) == 0
    method = yaml.safe_load(Path("o/run.yaml").read_text("utf-8"))["method"]
    assert (method["name"], method["r"]) == ("lora", 8)


def test_trainer_options_reach_the_trainer(train: Train) -> None:
    logs = ("--trainer.report-to", "tensorboard", "--trainer.eval_strategy", "epoch")
    assert train("--method", "lora", "--output", "o", *logs) == 0
    assert list(Path("o").rglob("events.out.tfevents.*"))


def test_schedules_with_arguments_and_strategies_of_no(train: Train) -> None:
    floor = ("--trainer.lr_scheduler_kwargs", "{min_lr: 1e-5}")
    schedule = ("--schedule", "cosine_with_min_lr", *floor)
    never = ("--trainer.eval_strategy", "no", "--trainer.save_strategy", "no")
    first = ("--trainer.logging_first_step", "--trainer.metric_for_best_model", "eval_accuracy")
    assert train("--method", "lora", "--output", "o", *schedule, *never, *first) == 0
    assert not list(Path("o/checkpoints").glob("checkpoint-*"))


def test_bfloat16_and_checkpointed_activations(train: Train) -> None:
    flags = ("--bf16", "--gradient-checkpointing", "--steps", "2")
    assert train("--method", "bidora", "--output", "o", *flags) == 0


class Signals(TrainerCallback):
    """Sends signals to its own process in the second step."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def on_step_begin(self, args: object, state: TrainerState, *_: object, **__: object) -> None:
        if state.global_step == 1:
            for number in self._numbers:
                signal.raise_signal(number)


@pytest.mark.parametrize(
    ("numbers", "status", "said"),
    [
        ([signal.SIGTERM], 143, "stopped; a checkpoint is saved. Continue with: rankwright train"),
        ([signal.SIGINT], 130, "stopped; a checkpoint is saved. Continue with: rankwright train"),
        ([signal.SIGINT] * 2, 130, "rankwright train: interrupted"),
    ],
    ids=["SIGTERM", "Ctrl-C", "Ctrl-C twice"],
)
def test_a_signal_in_training(
    train: Train,
    numbers: list[int],
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bar = contextlib.nullcontext(lambda _trainer: Signals(numbers))
    monkeypatch.setattr("rankwright.cli.commands.progress_bar", lambda _console: bar)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train("--method", "lora", "--save-steps", "100") == status
    assert said in capsys.readouterr().err.splitlines()[-1]
    saved = [path.name for path in Path("runs/lora-train-0/checkpoints").glob("checkpoint-*")]
    assert saved == (["checkpoint-2"] if len(numbers) == 1 else [])
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_ctrl_c_before_training_ends_at_once(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(TrainConfig, "make_task", lambda _: signal.raise_signal(signal.SIGINT))
    assert train("--method", "lora") == 130
    assert capsys.readouterr().err.splitlines()[-1] == "rankwright train: interrupted"


def test_ctrl_c_saves_and_the_printed_command_ends_at_the_same_bits(
    train: Train, options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = ["--method", "bidora", "--method.upper_betas", "[0.9, 0.98]", "--steps", "20"]
    command = [sys.executable, "-m", "rankwright", "train", *options, *method]
    lines = []
    with subprocess.Popen(
        [*command, "--output", "stopped run"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if "search: step 2/20" in line:
                process.send_signal(signal.SIGINT)
    assert process.returncode == 130, "".join(lines)
    hint = "rankwright train --config 'stopped run/run.yaml' --resume"
    assert hint in lines[-1]
    assert not Path("stopped run/result.json").exists()
    assert not Path("stopped run/adapter").exists()

    assert main(["eval", "stopped run"]) == 1
    assert hint in capsys.readouterr().err
    Path("stopped run").rename("moved run")
    assert main(["train", "--config", "moved run/run.yaml", "--resume"]) == 0
    assert "resuming from moved run/checkpoints/checkpoint-" in capsys.readouterr().err
    assert train(*method, "--output", "whole") == 0
    assert adapter_bytes(tmp_path / "moved run") == adapter_bytes(tmp_path / "whole")


def test_a_signal_in_the_middle_of_a_print_is_answered(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own streams refuse a write within a write."""

    class Busy(io.StringIO):
        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call")

    stopped = Termination()
    with stopped.watch(), interrupt_saves(say_at_once) as came:
        monkeypatch.setattr(sys, "stderr", Busy())
        signal.raise_signal(signal.SIGINT)
    monkeypatch.undo()
    assert (came, stopped.requested) == ([signal.SIGINT], True)
    assert "stopping after this step, with a checkpoint" in capfd.readouterr().err


def test_a_finished_run_is_not_written_over(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--method", "lora") == 0
    run = Path("runs/lora-train-0")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    assert train("--method", "lora", "--learning-rate", "2e-3") == 1
    assert train("--method", "lora", "--resume") == 1
    assert capsys.readouterr().err.count("already holds a finished run") == 2
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "stdlib-docs"], "exactly one of --task and --data"),
        (["--text-column", "text"], "there is no column 'text'; the columns are sentence, topic"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["--model", "nowhere"], "cannot load the model 'nowhere'"),
        (["--batch-size", "0"], "--batch-size = 0: expected at least 1"),
        (["--metrics", "acuracy"], "acuracy"),
        (["--method.r", "64"], "rank r = 64 is larger than every layer of"),
        (["--method.lora_alpha", "0"], "lora_alpha = 0.0: expected a number above 0"),
        (["--method.target_modules", "q_proj"], "key, query, value"),
        (["--trainer.report_too", "none"], "has no report_too; did you mean report_to"),
        (["--trainer.learning_rate", "1"], "give it as the option learning_rate"),
        (["--trainer.max_steps", "1"], "give it as the option steps"),
        (["--trainer.report_to", "paper"], "paper is not supported"),
        (["--schedule", "sideways"], "sideways is not a valid SchedulerType"),
        (["--schedule", "cosine_with_min_lr"], "--trainer.lr_scheduler_kwargs '{NAME: VALUE}'"),
        (["--schedule", "warmup_stable_decay"], "'warmup_stable_decay' cannot be built (get_"),
        (["--trainer.adam_beta1", "2"], "Invalid beta parameter at index 0: 2"),
        (["--trainer.metric_for_best_model", "nonsense"], "expected one of loss, accuracy, macro"),
        (["--train-rows", "1000"], "--train-rows = 1000: expected at most"),
        (["--resume"], "holds no run"),
        (["--method", "nora"], "unknown method 'nora'"),
    ],
)
def test_refusals_are_one_message_and_leave_nothing(
    train: Train, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--method", "lora", *more) == 1
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.startswith("rankwright train: ")
    assert "Traceback" not in shown.err
    assert not list(Path().iterdir())


def test_a_command_line_that_does_not_parse(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--stepz", "3") == 2
    assert "did you mean steps" in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_two_processes_train_one_run(options: list[str], tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [
            *(*torchrun, "-m", "rankwright", "train", *options),
            *("--method", "lora", "--steps", "2", "--output", str(tmp_path / "run")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("adapter: ") == 1
    run = tmp_path / "run"
    rows = json.loads((run / "result.json").read_text("utf-8"))["train_rows"]
    state = json.loads((run / "checkpoints/checkpoint-2/trainer_state.json").read_text("utf-8"))
    assert state["epoch"] == pytest.approx(2 / -(-rows // (2 * 4)))  # of 2 x 4 rows a step
