"""How a model lives through a stream: learners, unlearners, and strategies in which both are one mechanism."""
