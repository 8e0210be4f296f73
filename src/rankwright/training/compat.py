"""Private Trainer names that the mixin overrides or calls; `peft_layers.compat` checks them."""

TRAINER_NAMES = (
    "transformers.trainer:Trainer._clip_grad_norm",
    "transformers.trainer:Trainer._finalize_training",
    "transformers.trainer:Trainer._get_dataloader",
    "transformers.trainer:Trainer._get_grad_norm",
    "transformers.trainer:Trainer._get_num_items_in_batch",
    "transformers.trainer:Trainer._get_output_dir",
    "transformers.trainer:Trainer._get_train_sampler",
    "transformers.trainer:Trainer._get_collator_with_removed_columns",
    "transformers.trainer:Trainer._load_best_model",
    "transformers.trainer:Trainer._load_from_checkpoint",
    "transformers.trainer:Trainer._load_optimizer_and_scheduler",
    "transformers.trainer:Trainer._load_rng_state",
    "transformers.trainer:Trainer._prepare_inputs",
    "transformers.trainer:Trainer._remove_unused_columns",
    "transformers.trainer:Trainer._run_epoch",
    "transformers.trainer:Trainer._save",
    "transformers.trainer:Trainer._save_checkpoint",
    "transformers.trainer_utils:rotate_checkpoints",
)

TRL_METRICS = ("_metrics", "_stored_metrics", "_total_train_tokens")
"""Attributes in which TRL's `compute_loss` stores metrics; see tests/training/test_trl.py."""
