"""How a model lives through a stream: learners, unlearners, guards, and strategies in which all is one mechanism."""
