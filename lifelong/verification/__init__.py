"""Whether claims of exactness are true: replays of a run, and faulty strategies that the replays must catch."""
