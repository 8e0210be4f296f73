"""PEFT's adapted layers: find them, view them as matrices, check them."""
