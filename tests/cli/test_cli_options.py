"""Options from a YAML file and from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from torch import Tensor

from rankwright.cli.arguments import UsageError, normalise
from rankwright.cli.options import parse_train
from rankwright.core.run import Run
from rankwright.core.slots import Penalty, Procedure
from rankwright.errors import MethodError

NEEDED = ("--model", "m", "--task", "stdlib-docs")


def write(path: Path, **values: object) -> str:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def test_options_of_run_and_method() -> None:
    values, start = parse_train([*NEEDED, "--method", "dora", "--method.r", "4", "--epochs", "2"])
    assert values["model"] == "m"
    assert values["epochs"] == 2.0
    assert values["method"]["name"] == "dora"
    assert values["method"]["r"] == 4
    assert start == {"resume": False, "overwrite": False}
    assert parse_train([*NEEDED, "--resume"])[1] == {"resume": True, "overwrite": False}
    assert parse_train([*NEEDED, "--overwrite"])[1] == {"resume": False, "overwrite": True}
    with pytest.raises(UsageError, match="give one of --resume and --overwrite"):
        parse_train([*NEEDED, "--overwrite", "--resume"])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--text-column", "--text_column"),
        ("--text-column=a-b", "--text_column=a-b"),
        ("--method", "--method.name"),
        ("--method=dora", "--method.name=dora"),
        ("--method.lora-alpha", "--method.lora_alpha"),
        ("a-b", "a-b"),
        ("-1", "-1"),
    ],
)
def test_hyphens_or_underscores(typed: str, meant: str) -> None:
    assert normalise(typed) == meant


def test_a_flag_needs_no_value() -> None:
    assert parse_train([*NEEDED, "--bf16", "--steps", "3"])[0]["bf16"] is True
    assert parse_train([*NEEDED, "--steps", "3", "--bf16"])[0]["bf16"] is True
    assert parse_train([*NEEDED, "--bf16", "false"])[0]["bf16"] is False
    assert parse_train([*NEEDED, "--method.use-rslora"])[0]["method"]["use_rslora"] is True
    first = ("--trainer.logging-first-step", "--steps", "3")
    assert parse_train([*NEEDED, *first])[0]["trainer"] == {"logging_first_step": True}


def test_values_of_every_shape() -> None:
    values, _ = parse_train(
        [
            *NEEDED,
            *("--metrics", "[accuracy, macro_f1]"),
            *("--method.target_modules", "[query, value]"),
            *("--method.rank_pattern", "{query: 2}"),
            *("--method.upper_betas", "[0.9, 0.98]"),
            *("--trainer.report_to", "tensorboard", "--trainer.eval_steps", "5"),
        ]
    )
    assert values["metrics"] == ["accuracy", "macro_f1"]
    assert values["method"]["target_modules"] == ["query", "value"]
    assert values["method"]["rank_pattern"] == {"query": 2}
    assert values["method"]["upper_betas"] == (0.9, 0.98)
    assert values["trainer"] == {"report_to": "tensorboard", "eval_steps": 5}
    assert parse_train([*NEEDED, "--metrics", "accuracy"])[0]["metrics"] == "accuracy"


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "run.yaml",
        **{"model": "m", "task": "stdlib-docs", "steps": 5, "learning-rate": 1e-3},
        method={"name": "lora", "r": 4, "lora_alpha": 8},
        trainer={"report_to": "tensorboard", "eval_steps": 5},
    )
    values, _ = parse_train(
        ["--config", path, "--steps", "7", "--method.r=2", "--trainer.eval_steps", "9"]
    )
    assert values["steps"] == 7
    assert values["learning_rate"] == 1e-3
    assert values["method"] == {**values["method"], "name": "lora", "r": 2, "lora_alpha": 8.0}
    assert values["trainer"] == {"report_to": "tensorboard", "eval_steps": 9}


def test_another_method_on_top_of_a_file_drops_the_fields_of_the_first(tmp_path: Path) -> None:
    path = write(
        tmp_path / "run.yaml",
        model="m",
        task="stdlib-docs",
        method={"name": "xgblora", "r": 1, "rounds": 4},
    )
    values, _ = parse_train(["--config", path, "--method", "dora"])
    assert values["method"]["name"] == "dora"
    assert values["method"]["r"] == 8
    assert parse_train(["--config", path, "--method", "xgblora"])[0]["method"]["rounds"] == 4


def test_a_file_may_name_the_method_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", model="m", task="stdlib-docs", method="dora")
    assert parse_train(["--config", path])[0]["method"]["name"] == "dora"


def test_a_number_that_yaml_takes_for_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ntask: stdlib-docs\nlearning_rate: 2e-3\n", encoding="utf-8")
    assert parse_train(["--config", str(path)])[0]["learning_rate"] == 2e-3


def test_a_date_of_a_file_is_a_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ntask: stdlib-docs\noutput: 2026-11-23\n", encoding="utf-8")
    assert parse_train(["--config", str(path)])[0]["output"] == "2026-11-23"


def plugged(*arguments: str) -> dict[str, list[dict[str, object]]]:
    """What is plugged in, without the fields that stand at None or False."""
    parts = parse_train([*arguments, "--method", "lora"])[0]["parts"]
    return {
        slot: [{name: value for name, value in item.items() if value} for item in items]
        for slot, items in parts.items()
    }


def test_parts_by_name() -> None:
    assert parse_train(NEEDED)[0]["parts"] == {}
    assert plugged(*NEEDED, "--init", "olora") == {"init": [{"name": "olora"}]}
    assert plugged(*NEEDED, "--init=pissa", "--init.niter", "4") == {
        "init": [{"name": "pissa", "niter": 4}]
    }
    assert plugged(*NEEDED, "--init", "null", "--procedure", "[]") == {}


@pytest.mark.parametrize("names", ["flat,chain", "flat, chain", "[flat, chain]"])
def test_several_parts_in_one_slot(names: str) -> None:
    flat, chain = plugged(
        *(*NEEDED, "--procedure", names, "--procedure.rho", "0.1"),
        *("--procedure.chain.rounds=3", "--procedure.lr-policy", "restart"),
        *("--procedure.ranks", "[2, 1, 1]"),
    )["procedure"]
    assert (flat["name"], flat["rho"]) == ("flat", 0.1)
    assert (chain["name"], chain["rounds"], chain["ranks"]) == ("chain", 3, [2, 1, 1])
    assert chain["lr_policy"] == "restart"


def test_parts_in_a_file(tmp_path: Path) -> None:
    path = write(
        tmp_path / "run.yaml",
        model="m",
        task="stdlib-docs",
        init="olora",
        procedure=[{"name": "flat", "rho": 0.3}, "chain"],
    )
    parts = plugged("--config", path)
    assert parts["init"] == [{"name": "olora"}]
    assert [part["name"] for part in parts["procedure"]] == ["flat", "chain"]
    assert parts["procedure"][0]["rho"] == 0.3
    assert plugged("--config", path, "--procedure.rho", "0.5")["procedure"][0]["rho"] == 0.5
    assert plugged("--config", path, "--procedure", "flat")["procedure"][0]["rho"] == 0.3
    (chain,) = plugged("--config", path, "--procedure", "chain")["procedure"]
    assert "rho" not in chain


def test_parts_of_ones_own() -> None:
    (mine,) = plugged(*NEEDED, "--penalty", f"{__name__}:Mine", "--penalty.weight", "2")["penalty"]
    assert mine == {"name": f"{__name__}:Mine", "weight": 2.0}


@dataclass(frozen=True)
class Mine(Penalty):
    """A penalty."""

    weight: float = 1.0

    def __call__(self, run: Run) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Noisy(Procedure):
    """A procedure with a field of a name that another one has."""

    rho: float = 1.0


def test_a_field_that_two_parts_have() -> None:
    both = ("--procedure", f"flat,{__name__}:Noisy")
    with pytest.raises(MethodError, match=r"write --procedure.flat.rho or --procedure.Noisy.rho"):
        plugged(*NEEDED, *both, "--procedure.rho", "2")
    flat, noisy = plugged(*NEEDED, *both, "--procedure.Noisy.rho", "2")["procedure"]
    assert (flat["rho"], noisy["rho"]) == (0.05, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*NEEDED, "--procedure.rho", "3"], r"no option procedure.rho"),
        ([*NEEDED, "--init", "olora", "--procedure.rho", "3"], r"no option procedure.rho"),
        ([*NEEDED, "--procedure", "flat", "--procedure.ro=3"], r"did you mean procedure.flat.rho"),
        ([*NEEDED, "--procedure", "flat", "--procedure.rho", "x"], r"flat.rho = x: expected float"),
        (
            [*NEEDED, "--procedure", "chain", "--procedure.round_rows=3"],
            r"no option procedure.roun",
        ),
        ([*NEEDED, "--stepz", "3"], r"no option stepz; did you mean steps"),
        ([*NEEDED, "--method", "dora", "--method.rr=3"], r"no option method.rr; did you mean"),
        ([*NEEDED, "--steps", "many"], r"steps = many: expected int or null"),
        ([*NEEDED, "--learning-rate", "fast"], r"learning_rate = fast: expected float"),
        ([*NEEDED, "--method.norm-grad", "half"], r"norm_grad = half: expected '\w+' or '\w+'"),
        (["--task", "stdlib-docs"], r"^give --model$"),
        ([*NEEDED, "extra"], r"no option extra"),
        ([*NEEDED, "--step", "3"], r"no option step; did you mean steps"),
    ],
)
def test_usage_errors_are_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        parse_train(arguments)
    assert "\n" not in str(error.value)


def test_an_unknown_key_of_the_file_names_the_file_and_its_neighbours(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", model="m", task="stdlib-docs", learning_rte=1e-3)
    with pytest.raises(UsageError, match=r"run.yaml: .*learning_rte; did you mean learning_rate"):
        parse_train(["--config", path])
    path = write(tmp_path / "run.yaml", model="m", task="stdlib-docs", method={"rank": 3})
    with pytest.raises(UsageError, match=r"run.yaml: .*method.rank; did you mean method.r or"):
        parse_train(["--config", path])
    path = write(tmp_path / "run.yaml", model="m", task="stdlib-docs", resume=True)
    with pytest.raises(UsageError, match=r"run.yaml: there is no option resume"):
        parse_train(["--config", path])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected options"),
        ("a: [\n", "is not YAML"),
        ("", "expected options"),
        ("model: m\nmethod: [lora]\n", r"method is \['lora'\]; expected a name, or a mapping"),
        ("model: m\nmethod: null\n", "method is None; expected a name, .* it is bidora"),
        ("model: m\nmethod:\n", "method is None; expected a name"),
        ("model: m\nmethod: ''\n", "method is ''; expected a name"),
        ("model: m\nmethod: {}\n", r"method is \{\}; expected a name"),
        ("model: m\nmethod: {name: null, r: 4}\n", "method is {'name': None, 'r': 4}; expected"),
        ("model: m\nmodel: n\n", "line 2: the key 'model' is set in line 1 already"),
        ("model: m\nmethod: {r: 4, r: 8}\n", "line 2: the key 'r' is set in line 2 already"),
        ("model: m\nbatch-size: 4\nbatch_size: 8\n", "batch_size is set twice; keep one"),
        ("model: m\nmethod: {r: 4}\nmethod.r: 8\n", r"method\.r is set twice; keep one"),
    ],
)
def test_a_file_that_is_not_a_configuration_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MethodError, match=message):
        parse_train(["--config", str(path)])


@pytest.mark.parametrize("name", ["model", "seed", "learning_rate", "schedule", "method.r"])
def test_an_option_without_a_value_is_refused(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "run.yaml", **{"model": "m", "task": "stdlib-docs", name: None})
    with pytest.raises(UsageError, match=rf"run.yaml: {name} has no value; expected"):
        parse_train(["--config", path])


def test_an_option_that_may_be_left_out_may_be_null(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", model="m", data="d", task=None, steps=None, init=None)
    values, _ = parse_train(["--config", path])
    assert (values["task"], values["steps"], values["parts"]) == (None, None, {})


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(MethodError, match=r"cannot read --config nowhere\.yaml: No such file"):
        parse_train(["--config", "nowhere.yaml"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--init", "flat"), "unknown init 'flat'; expected one of olora, orthonormal, pissa"),
        (("--init", "{"), "--init {: expected a name, or several with commas"),
        (("--procedure", "flat,flat"), "--procedure names flat and flat, whose options are both "),
    ],
)
def test_a_part_that_is_not_there(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        parse_train([*NEEDED, *arguments])


def test_a_part_of_a_file_has_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "run.yaml", model="m", task="stdlib-docs", init={"niter": 4})
    with pytest.raises(MethodError, match=r"init: \{'niter': 4\} has no name"):
        parse_train(["--config", path])


def test_an_unknown_method_names_the_others() -> None:
    with pytest.raises(
        MethodError, match=r"unknown method .* expected one of adalora, autolora, ba_lora, "
    ):
        parse_train([*NEEDED, "--method", "nora"])
    with pytest.raises(MethodError, match="cannot import nowhere"):
        parse_train([*NEEDED, "--method", "nowhere:Nora"])
