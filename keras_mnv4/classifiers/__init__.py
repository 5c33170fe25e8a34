"""Classifiers as those look at them who train, distil, search and paint: what they give, and how it is compared."""
