"""One file per command, or per small group of them; imported without anything heavy."""
