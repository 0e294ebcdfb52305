"""Many customers' adapters of one base, repaired by one command."""
