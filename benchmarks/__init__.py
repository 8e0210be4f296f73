"""What the methods cost, beside PEFT and beside the least that any adapter can cost."""
