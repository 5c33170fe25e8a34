"""`count_macs`: multiply-accumulates of a network."""


def count_macs(model):
    """Counts the multiply-accumulates of all convolutions and attention products of one forward pass of one picture.

    Normalisations, activations, pooling and sums are not counted, as is the custom. No forward pass is run.

    Args:
        model: a Functional Keras model of fixed input size, of layers of this package.

    Returns:
        The number of multiply-accumulates.

    Raises:
        ValueError: if the input size is not fixed, or a layer with weights has no `count_macs`.

    Example:

    >>> count_macs(MobileNetV4ConvSmall(weights=None))
    186005568
    """
    if None in model.input_shape[1:]:
        raise ValueError(f"`model` must have a fixed input size. Received: {model.input_shape}")
    total = 0
    for layer in model.layers:
        if hasattr(layer, "count_macs"):
            total += layer.count_macs(layer.input.shape)
        elif layer.weights:
            raise ValueError(f"Layer `{layer.name}` ({type(layer).__name__}) does not say its multiply-accumulates.")
    return total
