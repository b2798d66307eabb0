"""RealStreamEval: what a stream said, when and how often, scored from files (specification RSE-1.0)."""
