"""Search for circuits: what a circuit costs (KL) and what each occurrence would change, cheaply."""
