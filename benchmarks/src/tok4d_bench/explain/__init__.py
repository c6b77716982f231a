"""What a loss does to a model: the Fréchet distance in two parts, gradients by term, the landscape of the weights."""
