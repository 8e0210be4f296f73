#!/usr/bin/env bash
# safetensors 0.8.0: safetensors.numpy.save_file of arrays that are not C-contiguous.
#
# Guess: the values that the array shows, as numpy.save writes; or an error, as safetensors.torch raises for such tensors.
# Seen:  the file has the right shape and other values: memory is written in its own order, whatever the strides. A transpose, a
#        Fortran-ordered array, a reversed and a strided slice come back wrong, and nothing is said.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q safetensors==0.8.0 numpy==2.4.6
cd "$work"
venv/bin/python -W ignore - <<'PY'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

array = np.arange(12, dtype=np.float32).reshape(3, 4)
views = {"contiguous": array, "transpose": array.T, "Fortran order": np.asfortranarray(array), "reversed": array[::-1],
         "every other column": array[:, ::2], "copy of a transpose": np.ascontiguousarray(array.T)}
save_file(views, "arrays.safetensors")
loaded = load_file("arrays.safetensors")
equal = {name: bool(np.array_equal(loaded[name], view)) for name, view in views.items()}
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}: read back equal: {equal}")
assert all(loaded[name].shape == view.shape for name, view in views.items())
assert [name for name, same in equal.items() if same] == ["contiguous", "copy of a transpose"]
PY
