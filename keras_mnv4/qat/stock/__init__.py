"""Networks of stock Keras layers: what a graph of them computes as one operator, and how each layer is quantised."""
