"""Matrix algebra on plain tensors: row norms, cosines, truncation, spectra."""
