"""The search for hyperparameters, in an Optuna storage that processes and machines share."""
