"""What happens to a model: data, events, their order, and requests to forget. No model, no optimizer, no tracker."""
