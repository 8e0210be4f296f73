"""The search for hyperparameters, in a storage that processes share."""
