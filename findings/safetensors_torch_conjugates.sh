#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.torch.save_file of a conjugated tensor.
#
# Guess: the file has the values that the tensor shows, as torch.save's has, or save_file raises as it does for transposes.
# Seen:  the file has the values before conjugation. tensor.conj() only sets a bit that is read at use; is_contiguous() is true,
#        and the memory is written as it is. resolve_conj() before saving helps.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
import safetensors
import torch
from safetensors.torch import load_file, save_file

torch.manual_seed(0)
spectrum = torch.fft.fft(torch.randn(4))
conjugate = spectrum.conj()
save_file({"lazy": conjugate, "resolved": conjugate.resolve_conj()}, "tensors.safetensors")
torch.save(conjugate, "tensor.pt")
loaded = load_file("tensors.safetensors")
same = {name: torch.equal(tensor, conjugate) for name, tensor in loaded.items()}
print(f"safetensors {safetensors.__version__}: contiguous {conjugate.is_contiguous()}, read back equal {same}")
assert torch.equal(torch.load("tensor.pt"), conjugate)
assert same == {"lazy": False, "resolved": True} and torch.equal(loaded["lazy"], spectrum)
PY
