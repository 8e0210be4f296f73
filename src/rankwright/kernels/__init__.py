"""Fused forwards of adapted layers and of the blocks around them."""
