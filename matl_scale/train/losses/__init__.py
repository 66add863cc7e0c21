"""What a label costs: loss functions, weights of classes and tasks, and the class frequencies that a network is trained for."""
