"""Pure functions of arrays: the maths of metrics and attacks, with the papers that they are from."""
