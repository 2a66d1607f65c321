"""How long a sharded system lasts, what a request costs it and what it stores: closed forms and simulation."""
