"""Studies: many runs that answer one question, with the answer's criteria declared before they start."""
