"""Method (the slots), Run (all that a part may touch), the registry; knows torch and PEFT only.

`errors`, `fields`, `search`, `slots` and `yamls` import neither: what needs no model is checked
before torch is imported.
"""
