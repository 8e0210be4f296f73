#!/usr/bin/env bash
# PEFT 0.21.2 over a mixture of experts of transformers 5.23.0 (Mixtral) with target_modules="all-linear".
#
# Guess: "all-linear" adapts the linear layers; experts, which are three-dimensional parameters now, are left out.
# Seen:  experts and router are adapted too, through target_parameters that PEFT adds to the configuration, with twice the rank
#        for gate_up_proj. PEFT then warns that its own pattern for gate_up_proj "did not match any targeted module" and was
#        ignored, while the layer has the rank that the pattern says.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.23.0 peft==0.21.2
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import warnings

import peft
from peft import LoraConfig, get_peft_model
from transformers import MixtralConfig, MixtralForCausalLM

shape = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, num_local_experts=4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = get_peft_model(MixtralForCausalLM(MixtralConfig(**shape)), LoraConfig(r=4, target_modules="all-linear"))
config = model.peft_config["default"]
ranks = {module.parameter_name: module.r["default"] for module in model.modules() if type(module).__name__ == "ParamWrapper"}
ignored = [str(w.message) for w in caught if "were ignored" in str(w.message)]
print(f"peft {peft.__version__}: target_parameters {sorted(config.target_parameters)}, ranks {ranks}, rank_pattern {config.rank_pattern}")
print("warning:", ignored[0])
assert sorted(config.target_parameters) == ["down_proj", "gate.weight", "gate_up_proj"]
assert ranks == {"weight": 4, "down_proj": 4, "gate_up_proj": 8}
assert "gate_up_proj" in ignored[0] and "did not match any targeted module" in ignored[0]
PY
