"""PEFT's adapted layers: finding them, viewing them as matrices, checking them."""
