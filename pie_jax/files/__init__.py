"""Files and the network: readers, writers, the hub, corpora, records of runs."""
